import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Future;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hbase.HBaseConfiguration;
import org.apache.hadoop.hbase.TableName;
import org.apache.hadoop.hbase.client.Admin;
import org.apache.hadoop.hbase.client.ColumnFamilyDescriptorBuilder;
import org.apache.hadoop.hbase.client.Connection;
import org.apache.hadoop.hbase.client.ConnectionFactory;
import org.apache.hadoop.hbase.client.TableDescriptorBuilder;

/** Makes the tables that each of some TSDs needs in an HBase: OpentsdbTables {port of its ZooKeeper} {TSDs}. */
public class OpentsdbTables {
    public static void main(String[] arguments) throws Exception {
        Configuration configuration = HBaseConfiguration.create();
        configuration.set("hbase.zookeeper.quorum", "127.0.0.1");
        configuration.set("hbase.zookeeper.property.clientPort", arguments[0]);
        try (Connection connection = ConnectionFactory.createConnection(configuration);
                Admin admin = connection.getAdmin()) {
            List<Future<Void>> made = new ArrayList<>();
            for (int tsd = 0; tsd < Integer.parseInt(arguments[1]); tsd++) {
                made.add(create(admin, "tsdb-" + tsd, "t"));
                made.add(create(admin, "tsdb-uid-" + tsd, "id", "name"));
            }
            for (Future<Void> table : made) {
                table.get();
            }
        }
    }

    private static Future<Void> create(Admin admin, String table, String... families) throws Exception {
        TableDescriptorBuilder builder = TableDescriptorBuilder.newBuilder(TableName.valueOf(table));
        for (String family : families) {
            builder.setColumnFamily(ColumnFamilyDescriptorBuilder.of(family));
        }
        return admin.createTableAsync(builder.build(), null);
    }
}
