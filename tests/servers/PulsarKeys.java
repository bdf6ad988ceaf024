import java.util.Arrays;
import org.apache.pulsar.client.api.Producer;
import org.apache.pulsar.client.api.PulsarClient;

/** A message without a payload for each key, by Pulsar's client for Java as it is by default: URL TOPIC KEY… */
public class PulsarKeys {
    public static void main(String[] args) throws Exception {
        try (PulsarClient client = PulsarClient.builder().serviceUrl(args[0]).build();
                Producer<byte[]> producer = client.newProducer().topic(args[1]).create()) {
            for (String key : Arrays.asList(args).subList(2, args.length)) {
                producer.newMessage().key(key).value(new byte[0]).send();
            }
        }
    }
}
