import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.MessageProperties;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ConcurrentSkipListSet;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicReference;

/**
 * Publishes messages, persistent and mandatory, over some channels of one connection, as fast as the server confirms
 * them; no more than a window of them is unconfirmed. Before, as many to nobody, so that the code is compiled.
 *
 * <p>Arguments: port, user, password, virtual host, exchange, messages, bytes, window, channels. Prints the seconds from
 * the first publish to the last confirmation.
 */
public class AmqpPublisher {
    private final Semaphore window;
    private final int size;
    private final AtomicReference<String> refused = new AtomicReference<>();
    /** Numbers of the messages that a channel has not confirmed. */
    private final Map<Channel, ConcurrentSkipListSet<Long>> numbers = new HashMap<>();

    private AmqpPublisher(int size) {
        this.size = size;
        this.window = new Semaphore(size);
    }

    public static void main(String[] arguments) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setHost("127.0.0.1");
        factory.setPort(Integer.parseInt(arguments[0]));
        factory.setUsername(arguments[1]);
        factory.setPassword(arguments[2]);
        factory.setVirtualHost(arguments[3]);
        String exchange = arguments[4];
        int messages = Integer.parseInt(arguments[5]);
        byte[] body = new byte[Integer.parseInt(arguments[6])];
        Arrays.fill(body, (byte) 'x');
        AmqpPublisher publisher = new AmqpPublisher(Integer.parseInt(arguments[7]));
        try (Connection connection = factory.newConnection()) {
            Channel[] channels = new Channel[Integer.parseInt(arguments[8])];
            for (int at = 0; at < channels.length; at++) {
                channels[at] = connection.createChannel();
            }
            publisher.confirm(channels);
            // The default exchange, to a queue that is not there.
            publisher.publish(channels, "", false, messages, body);
            long began = System.nanoTime();
            publisher.publish(channels, exchange, true, messages, body);
            System.out.println((System.nanoTime() - began) / 1e9);
        }
    }

    private void confirm(Channel[] channels) throws Exception {
        for (Channel channel : channels) {
            ConcurrentSkipListSet<Long> unconfirmed = new ConcurrentSkipListSet<>();
            channel.confirmSelect();
            channel.addConfirmListener(
                    (number, multiple) -> confirmed(unconfirmed, number, multiple),
                    (number, multiple) -> {
                        refused.set("refused");
                        confirmed(unconfirmed, number, multiple);
                    });
            channel.addReturnListener(returned -> refused.set(returned.getReplyText()));
            numbers.put(channel, unconfirmed);
        }
    }

    private void confirmed(ConcurrentSkipListSet<Long> unconfirmed, long number, boolean multiple) {
        int released = 0;
        if (multiple) {
            while (!unconfirmed.isEmpty() && unconfirmed.first() <= number) {
                unconfirmed.pollFirst();
                released++;
            }
        } else if (unconfirmed.remove(number)) {
            released = 1;
        }
        window.release(released);
    }

    private void publish(Channel[] channels, String exchange, boolean mandatory, int messages, byte[] body)
            throws Exception {
        for (int at = 0; at < messages; at++) {
            Channel channel = channels[at % channels.length];
            window.acquire();
            numbers.get(channel).add(channel.getNextPublishSeqNo());
            channel.basicPublish(exchange, "", mandatory, MessageProperties.PERSISTENT_BASIC, body);
        }
        window.acquire(size);
        window.release(size);
        if (refused.get() != null) {
            throw new IllegalStateException(refused.get());
        }
    }
}
