//! A relay in a process of its own, and a well-behaved sender beside the abuse.

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::ops::Deref;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::support::*;

/// The memory limit of a relay pod, unless its `PresenceRoute` says otherwise.
pub(crate) const POD_MEMORY: Megabytes = Megabytes(256);

/// Mebibytes.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct Megabytes(pub(crate) u64);

/// One abuse at a time: they would disturb each other's measurements and share the descriptors of this process.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A relay that one abuse has to itself, and its Kafka.
pub(crate) struct Abused {
    relay: Process,
    pub(crate) kafka: MockCluster<'static, DefaultProducerContext>,
    /// The relay's memory before anything is done to it.
    pub(crate) before: Megabytes,
    _alone: MutexGuard<'static, ()>,
}

impl Abused {
    /// Waits for the other abuses of this process, and starts a relay with these limits of `relay.yaml`.
    pub(crate) async fn start(limits: &str) -> Self {
        Self::start_within(limits, None).await
    }

    /// The same, and the relay may have no more than so many descriptors.
    pub(crate) async fn start_within(limits: &str, descriptors: Option<u32>) -> Self {
        let most = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: most.maximum, maximum: most.maximum }).unwrap();
        let alone = ALONE.lock().await;
        let kafka = kafka(&["gen-presence-state"]);
        let relay = Process::start(&kafka.bootstrap_servers(), limits, descriptors).await;
        Self { before: relay.memory(), relay, kafka, _alone: alone }
    }
}

impl Deref for Abused {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.relay
    }
}

/// As many connections as this process may have, at most `wanted`.
pub(crate) fn connections(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).maximum.map_or(usize::MAX, |limit| limit as usize);
    let possible = wanted.min(limit.saturating_sub(500));
    assert!(
        possible == wanted || std::env::var_os("CI").is_none(),
        "{wanted} connections take {} descriptors, and the system allows {limit}; raise `ulimit -Hn`",
        wanted + 500
    );
    println!("{possible} connections; the system allows {limit} descriptors");
    possible
}

/// Names an optimised relay to be abused in the place of the one that the tests are built with.
const OPTIMISED: &str = "PRESENCEROUTE_RELAY";

/// Whether the relay is optimised, so that times can be told from those of the tests themselves.
pub(crate) fn is_optimised() -> bool {
    std::env::var_os(OPTIMISED).is_some() || !cfg!(debug_assertions)
}

/// The relay's program.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: Arc<std::sync::Mutex<Vec<String>>>,
    _config: tempfile::NamedTempFile,
}

impl Process {
    /// Starts one, and waits until Kafka answers it.
    async fn start(brokers: &str, limits: &str, descriptors: Option<u32>) -> Self {
        let config = tempfile::NamedTempFile::new().unwrap();
        let yaml = format!("kafka: {{bootstrapServers: ['{brokers}']}}\nlimits: {limits}\n");
        std::fs::write(config.path(), yaml).unwrap();
        let limit = descriptors.map_or(String::new(), |descriptors| format!("ulimit -n {descriptors} && "));
        let program =
            std::env::var_os(OPTIMISED).unwrap_or_else(|| env!("CARGO_BIN_EXE_presenceroute-relay").into());
        let mut child = Command::new("sh")
            .args(["-c", &format!("{limit}exec \"$0\" \"$@\"")])
            .arg(program)
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--routes", TABLE])
            .args(["--log-format", "json", "--log-level", "debug"])
            .arg("--config")
            .arg(config.path())
            .env("GENESYS_WEBHOOK_SECRET", SECRET)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let log = Arc::new(std::sync::Mutex::new(Vec::new()));
        let listening = lines
            .by_ref()
            .inspect(|line| log.lock().unwrap().push(line.clone()))
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok())
            .find(|line| line["message"] == "listening")
            .expect("a relay that listens");
        let into = Arc::clone(&log);
        std::thread::spawn(move || lines.for_each(|line| into.lock().unwrap().push(line)));
        let address = |name: &str| listening[name].as_str().unwrap().parse().unwrap();
        let (address, admin) = (address("address"), address("admin_address"));
        let relay = Self { child, address, admin, log, _config: config };
        let until = Instant::now() + PATIENCE;
        while exchange(relay.admin, &request("GET", "/readyz", &[], b"")).await.status != 200 {
            assert!(Instant::now() < until, "the relay is not ready");
        }
        relay
    }

    /// Its memory at this moment.
    pub(crate) fn memory(&self) -> Megabytes {
        self.status_field("VmRSS:")
    }

    /// The most memory that it has had so far.
    pub(crate) fn most_memory(&self) -> Megabytes {
        self.status_field("VmHWM:")
    }

    fn status_field(&self, name: &str) -> Megabytes {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let kibibytes: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        Megabytes(kibibytes.div_ceil(1024))
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// The value of a metric without labels.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let metrics = exchange(self.admin, &request("GET", "/metrics", &[], b"")).await.body;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} in {metrics}")).parse().unwrap()
    }

    /// Waits until a metric is what it should be.
    pub(crate) async fn until_metric(&self, name: &str, is_so: impl Fn(u64) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(name).await;
            if is_so(value) {
                return;
            }
            assert!(Instant::now() < until, "{name} stays {value}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs an abuse while a good sender, who has been at work before, posts an event every 10 ms on a connection of its
/// own. Each of its events is
/// answered 200, half of them within 100 ms and all within 2 s, by a relay that may be unoptimised and on a machine
/// that may have more to do.
pub(crate) async fn beside_a_good_sender<T>(relay: &Process, abuse: impl Future<Output = T>) -> T {
    let is_over = AtomicBool::new(false);
    let is_at_work = Notify::new();
    let abuse = async {
        is_at_work.notified().await;
        let outcome = abuse.await;
        is_over.store(true, Ordering::Relaxed);
        outcome
    };
    let good = async {
        let mut latencies = Vec::new();
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        let mut every = tokio::time::interval(Duration::from_millis(10));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !is_over.load(Ordering::Relaxed) || latencies.len() < 20 {
            every.tick().await;
            let begun = Instant::now();
            stream.write_all(&signed(SECRET, event(&unique()).as_bytes())).await.unwrap();
            let answer = read_answer(&mut stream).await.expect("an answer for the good sender");
            assert_eq!(answer.status, 200, "{answer:?}");
            latencies.push(begun.elapsed());
            is_at_work.notify_one();
        }
        latencies.sort_unstable();
        latencies
    };
    let (outcome, latencies) = tokio::join!(abuse, good);
    let (median, most) = (latencies[latencies.len() / 2], latencies[latencies.len() - 1]);
    println!("beside it {} good events: median {median:?}, at most {most:?}", latencies.len());
    println!("memory: {:?}, at most {:?}", relay.memory(), relay.most_memory());
    assert!(median < Duration::from_millis(100), "the median is {median:?}");
    assert!(most < Duration::from_secs(2), "the slowest took {most:?}");
    outcome
}

/// An id that no other event has.
pub(crate) fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("unique-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
