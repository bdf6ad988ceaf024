import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hbase.HBaseConfiguration;
import org.apache.hadoop.hbase.TableName;
import org.apache.hadoop.hbase.client.Admin;
import org.apache.hadoop.hbase.client.ColumnFamilyDescriptorBuilder;
import org.apache.hadoop.hbase.client.Connection;
import org.apache.hadoop.hbase.client.ConnectionFactory;
import org.apache.hadoop.hbase.client.TableDescriptorBuilder;

/** Makes the tables of OpenTSDB in an HBase: OpentsdbTables {port of its ZooKeeper}. */
public class OpentsdbTables {
    private static final String[][] TABLES = {
        {"tsdb", "t"}, {"tsdb-uid", "id", "name"}, {"tsdb-tree", "t"}, {"tsdb-meta", "name"}};

    public static void main(String[] arguments) throws Exception {
        Configuration configuration = HBaseConfiguration.create();
        configuration.set("hbase.zookeeper.quorum", "127.0.0.1");
        configuration.set("hbase.zookeeper.property.clientPort", arguments[0]);
        try (Connection connection = ConnectionFactory.createConnection(configuration);
                Admin admin = connection.getAdmin()) {
            for (String[] table : TABLES) {
                TableDescriptorBuilder builder = TableDescriptorBuilder.newBuilder(TableName.valueOf(table[0]));
                for (int at = 1; at < table.length; at++) {
                    builder.setColumnFamily(ColumnFamilyDescriptorBuilder.of(table[at]));
                }
                admin.createTable(builder.build());
            }
        }
    }
}
