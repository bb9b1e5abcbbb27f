// The baseline of the benchmark: a straightforward relay, as someone would write it who follows the contract with
// Go's standard library and Confluent's Kafka client. It is meant to be good, ordinary code: no tricks, and no
// traps. librdkafka keeps its defaults, but for the two that the contract asks for (acks=all, idempotence).
package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

const (
	path            = "/eventbridge/presence"
	signatureHeader = "X-Genesys-Event-Signature"
	maxBodyBytes    = 1 << 20
	publishTimeout  = 4 * time.Second
)

// event is what Genesys Cloud delivers.
type event struct {
	ID         string         `json:"id"`
	EventType  string         `json:"eventType"`
	Timestamp  int64          `json:"timestamp"`
	Source     string         `json:"source"`
	Attributes map[string]any `json:"attributes"`
}

// relay answers requests; all fields are read-only once it serves.
type relay struct {
	secret   []byte
	topics   map[string]string
	producer *kafka.Producer
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	secret, brokers := os.Getenv("GENESYS_WEBHOOK_SECRET"), os.Getenv("KAFKA_BROKERS")
	if secret == "" || brokers == "" {
		return errors.New("set GENESYS_WEBHOOK_SECRET and KAFKA_BROKERS")
	}
	topics := map[string]string{
		"presence:state:changed":    "gen-presence-state",
		"presence:status:changed":   "gen-presence-status",
		"presence:location:changed": "gen-presence-location",
	}
	if routes := os.Getenv("ROUTES"); routes != "" {
		topics = nil
		if err := json.Unmarshal([]byte(routes), &topics); err != nil {
			return err
		}
	}

	producer, err := kafka.NewProducer(&kafka.ConfigMap{
		"bootstrap.servers":  brokers,
		"acks":               "all",
		"enable.idempotence": true,
		"message.timeout.ms": int(publishTimeout.Milliseconds()),
	})
	if err != nil {
		return err
	}
	defer producer.Close()
	go logEvents(producer)

	handler := http.NewServeMux()
	handler.Handle("POST "+path, &relay{secret: []byte(secret), topics: topics, producer: producer})
	server := &http.Server{
		Addr:              os.Getenv("LISTEN"),
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
	}

	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- server.ListenAndServe() }()
	select {
	case err := <-served:
		return err
	case <-stop.Done():
	}
	ending, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := server.Shutdown(ending); err != nil {
		return err
	}
	producer.Flush(int(publishTimeout.Milliseconds()))
	return nil
}

// logEvents says what concerns the client as a whole; every event's own report goes to its request.
func logEvents(producer *kafka.Producer) {
	for e := range producer.Events() {
		if failure, ok := e.(kafka.Error); ok {
			log.Printf("kafka: %v", failure)
		}
	}
}

func (r *relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	signature := req.Header.Get(signatureHeader)
	if signature == "" {
		http.Error(w, "no signature", http.StatusBadRequest)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBodyBytes))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			http.Error(w, "body too large", http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(w, "body not readable", http.StatusBadRequest)
		return
	}
	if !r.isSigned(body, signature) {
		http.Error(w, "wrong signature", http.StatusForbidden)
		return
	}
	var e event
	if err := json.Unmarshal(body, &e); err != nil || e.ID == "" || e.EventType == "" {
		http.Error(w, "not an event", http.StatusBadRequest)
		return
	}
	topic, ok := r.topics[e.EventType]
	if !ok {
		http.Error(w, "no route for this event type", http.StatusNotFound)
		return
	}
	if err := r.publish(req.Context(), topic, &e, body); err != nil {
		log.Printf("event not published to %s: %v", topic, err)
		http.Error(w, "not published", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, `{"status":"processed"}`)
}

func (r *relay) isSigned(body []byte, signature string) bool {
	mac := hmac.New(sha256.New, r.secret)
	mac.Write(body)
	return hmac.Equal([]byte(hex.EncodeToString(mac.Sum(nil))), []byte(signature))
}

// publish returns when all in-sync replicas have the event, or with the reason why not.
func (r *relay) publish(ctx context.Context, topic string, e *event, body []byte) error {
	report := make(chan kafka.Event, 1)
	err := r.producer.Produce(&kafka.Message{
		TopicPartition: kafka.TopicPartition{Topic: &topic, Partition: kafka.PartitionAny},
		Key:            []byte(e.ID),
		Value:          body,
		Headers: []kafka.Header{
			{Key: "ce_specversion", Value: []byte("1.0")},
			{Key: "ce_id", Value: []byte(e.ID)},
			{Key: "ce_type", Value: []byte(e.EventType)},
			{Key: "ce_source", Value: []byte(e.Source)},
			{Key: "ce_time", Value: []byte(time.UnixMilli(e.Timestamp).UTC().Format(time.RFC3339Nano))},
			{Key: "content-type", Value: []byte("application/json")},
		},
	}, report)
	if err != nil {
		return err
	}
	select {
	case answer := <-report:
		if message, ok := answer.(*kafka.Message); ok {
			return message.TopicPartition.Error
		}
		return errors.New("no delivery report")
	case <-ctx.Done():
		return ctx.Err()
	}
}
