import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.format.DateTimeFormatter;
import java.time.format.DateTimeFormatterBuilder;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.ContextualFixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** Keeps the newest presence of each user in a compacted topic: NewestPresence.java BROKERS SOURCE TARGET */
public class NewestPresence {
    private static final String STORE = "newest-moments";

    public static void main(String[] arguments) {
        String brokers = arguments[0], source = arguments[1], target = arguments[2];
        var builder = new StreamsBuilder();
        var store = Stores.persistentKeyValueStore(STORE);
        builder.addStateStore(Stores.keyValueStoreBuilder(store, Serdes.String(), Serdes.String()));
        builder.stream(source, Consumed.with(Serdes.String(), Serdes.ByteArray()))
                .processValues(Newer::new, STORE)
                .to(target, Produced.with(Serdes.String(), Serdes.ByteArray()));

        var settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, brokers);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, target);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        // Another instance takes over from one that has died after 10 s, not after 45.
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), 10_000);
        var streams = new KafkaStreams(builder.build(), settings);
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }

    /** Forwards a presence only if it is newer than every one before it of the same user. */
    private static class Newer extends ContextualFixedKeyProcessor<String, byte[], byte[]> {
        // With all nine decimals, times sort as text.
        private static final DateTimeFormatter SORTABLE = new DateTimeFormatterBuilder().appendInstant(9).toFormatter();

        private final ObjectMapper json = new ObjectMapper();
        private KeyValueStore<String, String> newest;

        @Override
        public void init(FixedKeyProcessorContext<String, byte[]> context) {
            super.init(context);
            newest = context.getStateStore(STORE);
        }

        @Override
        public void process(FixedKeyRecord<String, byte[]> record) {
            String moment = moment(record);
            if (moment == null) {
                return;
            }
            String before = newest.get(record.key());
            if (before == null || moment.compareTo(before) > 0) {
                newest.put(record.key(), moment);
                context().forward(record);
            }
        }

        /** When the presence began, as a text that sorts; null if the record is no presence. */
        private String moment(FixedKeyRecord<String, byte[]> record) {
            String time = header(record, "ce_time");
            boolean isPresence = "v2.users.{id}.presence".equals(header(record, "ce_type"));
            if (!isPresence || header(record, "error") != null || time == null) {
                return null;
            }
            try {
                var modified = json.readTree(record.value()).at("/eventBody/modifiedDate").asText();
                return sortable(time) + (modified.isEmpty() ? "" : sortable(modified));
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }

        private static String sortable(String time) {
            return SORTABLE.format(Instant.parse(time));
        }

        private static String header(FixedKeyRecord<String, byte[]> record, String name) {
            Header header = record.headers().lastHeader(name);
            return header == null ? null : new String(header.value(), StandardCharsets.UTF_8);
        }
    }
}
