// mongo-java-server over a file, as one MongoDB server. It says on its output what clients ask of it, may speak TLS, may
// be slow, and may say that it stands in a replica set or before a sharded cluster.
//
// java -cp 'jars/*:classes' MongoDb port=27017 file=/path [name=value …]

import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.bson.Document;
import io.netty.channel.Channel;
import io.netty.handler.ssl.ClientAuth;
import io.netty.handler.ssl.SslContextBuilder;
import java.io.File;
import java.lang.reflect.Field;
import java.net.InetSocketAddress;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;

public class MongoDb {
    private static final Set<String> WRITES =
        Set.of("insert", "update", "delete", "drop", "create", "createindexes", "dropdatabase", "renamecollection");
    private static final int THREADS = 24;

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = new HashMap<>();
        for (String argument : arguments) {
            String[] parts = argument.split("=", 2);
            options.put(parts[0], parts[1]);
        }
        MongoServer server = new MongoServer(new Backend(options).version(new Version()));
        if (options.containsKey("certificate")) {
            speakTls(server, options);
        }
        int port = Integer.parseInt(options.get("port"));
        server.bind(new InetSocketAddress("127.0.0.1", port), 1, THREADS);
        say("ready");
        Thread.currentThread().join();
    }

    /** By itself it says that it is a version which no driver speaks to any more. */
    private static class Version implements MongoVersion {
        @Override
        public List<Integer> getVersionArray() {
            return List.of(5, 0, 0);
        }

        @Override
        public int getWireVersion() {
            return 13;
        }
    }

    private static class Backend extends H2Backend {
        private final Map<String, String> options;
        private final long slowMillis;

        Backend(Map<String, String> options) {
            super(options.get("file"));
            // By itself it would write every second, in the middle of whatever is going on.
            getMvStore().setAutoCommitDelay(0);
            this.options = options;
            this.slowMillis = Long.parseLong(options.getOrDefault("slow", "0"));
        }

        @Override
        public Document handleCommand(Channel channel, String database, String command, Document query) {
            String name = command.toLowerCase(Locale.ROOT);
            if (name.equals("insert")) {
                tell(query);
            } else if (name.equals("ismaster") && query.get("client") instanceof Document client) {
                say("client " + client);
            }
            if (WRITES.contains(name)) {
                // Confirmed is on the disk, and nothing half done ever is.
                synchronized (this) {
                    Document answer = super.handleCommand(channel, database, command, query);
                    commit();
                    return answer;
                }
            }
            Document answer = super.handleCommand(channel, database, command, query);
            if (name.equals("ismaster")) {
                answer.putAll(standing());
            }
            return answer;
        }

        private void tell(Document query) {
            int count = ((List<?>) query.get("documents")).size();
            say("insert into " + query.get("insert") + " documents=" + count + " ordered=" + query.get("ordered")
                + " writeConcern=" + query.get("writeConcern"));
            if (slowMillis > 0) {
                try {
                    Thread.sleep(slowMillis);
                } catch (InterruptedException e) {
                    throw new IllegalStateException(e);
                }
            }
        }

        /** What it says of its place among others. */
        private Document standing() {
            Document standing = new Document();
            if (options.containsKey("set")) {
                boolean primary = options.get("primary").equals(options.get("me"));
                standing.put("setName", options.get("set"));
                standing.put("hosts", Arrays.asList(options.get("hosts").split(",")));
                standing.put("me", options.get("me"));
                standing.put("primary", options.get("primary"));
                standing.put("ismaster", primary);
                standing.put("secondary", !primary);
            } else if (options.containsKey("router")) {
                standing.put("msg", "isdbgrid");
            }
            if (options.containsKey("document_bytes_max")) {
                standing.put("maxBsonObjectSize", Integer.valueOf(options.get("document_bytes_max")));
            }
            return standing;
        }
    }

    /** Its own way to TLS asks no client for a certificate. */
    private static void speakTls(MongoServer server, Map<String, String> options) throws Exception {
        SslContextBuilder context =
            SslContextBuilder.forServer(new File(options.get("certificate")), new File(options.get("key")));
        if (options.containsKey("clients_of")) {
            context.trustManager(new File(options.get("clients_of"))).clientAuth(ClientAuth.REQUIRE);
        }
        Field field = MongoServer.class.getDeclaredField("sslContext");
        field.setAccessible(true);
        field.set(server, context.build());
    }

    private static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }
}
