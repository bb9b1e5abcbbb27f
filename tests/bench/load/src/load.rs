//! The load: events at their due times, or as many requests in flight as there are connections.
//!
//! With due times an event's latency begins when it was due, not when a connection was free for it: a server
//! that stalls is charged for every event that waits meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;

use crate::connection::{Connection, Progress};
use crate::events::Requests;
use crate::process;

/// How long the last answers may take after the last request.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// What to do.
pub(crate) struct Plan {
    /// The relay.
    pub(crate) address: SocketAddr,
    /// Its process.
    pub(crate) server: u32,
    /// How many connections.
    pub(crate) connections: usize,
    /// When each event is due; without it, as many are sent as the connections carry.
    pub(crate) schedule: Option<Vec<Duration>>,
    /// How long to load before anything is measured.
    pub(crate) warm_up: Duration,
    /// How long to measure.
    pub(crate) measured: Duration,
}

/// What came of it.
pub(crate) struct Outcome {
    /// Answers by status, of the warm-up too; 0 stands for a connection that broke.
    pub(crate) answers: BTreeMap<u16, u64>,
    /// Microseconds to a 200, measured part only.
    pub(crate) latencies: Histogram<u64>,
    /// How long the measured part was.
    pub(crate) seconds: f64,
    /// 200s within it.
    pub(crate) processed: u64,
    /// Processor time of the server within it.
    pub(crate) server_time: Duration,
    /// Processor time of the generator within it.
    pub(crate) own_time: Duration,
    /// The server's memory at the end of it in KiB: then, and at most.
    pub(crate) memory: (u64, u64),
}

struct Run<'a> {
    plan: &'a Plan,
    requests: &'a Requests,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    idle: Vec<usize>,
    /// When each request was due, or sent where no rate is kept.
    due: Vec<Instant>,
    /// Those that are due and have no connection yet.
    late: VecDeque<usize>,
    next: usize,
    answered: usize,
    answers: BTreeMap<u16, u64>,
    latencies: Histogram<u64>,
    begin: Instant,
    window: Option<(Instant, Duration, Duration)>,
    processed: u64,
}

/// Carries out a plan.
pub(crate) fn run(plan: &Plan, requests: &Requests) -> Result<Outcome> {
    // Timers of this thread may otherwise be 50 µs late, which would count as the server's latency.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::with_capacity(plan.connections);
    for number in 0..plan.connections {
        let connection = Connection::open(plan.address)?;
        epoll::add(&epoll, &connection.stream, EventData::new_u64(number as u64), EventFlags::IN)?;
        connections.push(connection);
    }
    let run = Run {
        plan,
        requests,
        epoll,
        idle: (0..plan.connections).rev().collect(),
        connections,
        due: Vec::with_capacity(requests.count()),
        late: VecDeque::new(),
        next: 0,
        answered: 0,
        answers: BTreeMap::new(),
        latencies: Histogram::new_with_bounds(1, 60_000_000, 3).map_err(Error::other)?,
        begin: Instant::now(),
        window: None,
        processed: 0,
    };
    run.finish()
}

impl Run<'_> {
    fn finish(mut self) -> Result<Outcome> {
        let warm = self.begin + self.plan.warm_up;
        let end = warm + self.plan.measured;
        let mut outcome = None;
        let mut events = Vec::with_capacity(1024);
        loop {
            let now = Instant::now();
            if self.window.is_none() && now >= warm {
                self.window = Some((
                    now,
                    process::processor_time(self.plan.server)?,
                    process::processor_time(std::process::id())?,
                ));
            }
            let is_over = now >= end || self.next == self.requests.count();
            if is_over && outcome.is_none() {
                outcome = Some(self.measure(now)?);
            }
            if !is_over {
                self.send_what_is_due(now)?;
            } else if self.answered == self.next || now >= end + LAST_ANSWERS {
                break;
            }
            let until = match &self.plan.schedule {
                _ if is_over => end + LAST_ANSWERS,
                Some(schedule) => schedule.get(self.next).map_or(end, |due| self.begin + *due),
                None => end,
            };
            self.wait(&mut events, until)?;
            for event in events.drain(..) {
                self.progress(event.data.u64() as usize, event.flags, !is_over)?;
            }
        }
        if let Some(unanswered) = u64::try_from(self.next - self.answered).ok().filter(|count| *count > 0) {
            *self.answers.entry(0).or_default() += unanswered;
        }
        let (seconds, server_time, own_time, memory) =
            outcome.ok_or_else(|| Error::other("nothing was measured"))?;
        Ok(Outcome {
            answers: self.answers,
            latencies: self.latencies,
            seconds,
            processed: self.processed,
            server_time,
            own_time,
            memory,
        })
    }

    fn measure(&mut self, now: Instant) -> Result<(f64, Duration, Duration, (u64, u64))> {
        let Some((since, server, own)) = self.window.take() else {
            return Err(Error::other("the events did not last beyond the warm-up; give --events more"));
        };
        Ok((
            now.duration_since(since).as_secs_f64(),
            process::processor_time(self.plan.server)?.saturating_sub(server),
            process::processor_time(std::process::id())?.saturating_sub(own),
            process::memory(self.plan.server)?,
        ))
    }

    fn send_what_is_due(&mut self, now: Instant) -> Result<()> {
        match &self.plan.schedule {
            Some(schedule) => {
                while let Some(due) =
                    schedule.get(self.next).map(|due| self.begin + *due).filter(|due| *due <= now)
                {
                    self.due.push(due);
                    self.late.push_back(self.next);
                    self.next += 1;
                }
                while let Some(connection) = self.idle.pop() {
                    let Some(number) = self.late.pop_front() else {
                        self.idle.push(connection);
                        break;
                    };
                    self.send(connection, number)?;
                }
            }
            None => {
                while self.next < self.requests.count() {
                    let Some(connection) = self.idle.pop() else { break };
                    self.due.push(Instant::now());
                    self.next += 1;
                    self.send(connection, self.next - 1)?;
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, connection: usize, number: usize) -> Result<()> {
        let is_written = self.connections[connection].write(number, self.requests.get(number));
        match is_written {
            Ok(true) => Ok(()),
            Ok(false) => self.interest(connection, EventFlags::IN | EventFlags::OUT),
            Err(_) => self.broken(connection, number),
        }
    }

    fn interest(&self, connection: usize, flags: EventFlags) -> Result<()> {
        let stream = &self.connections[connection].stream;
        Ok(epoll::modify(&self.epoll, stream, EventData::new_u64(connection as u64), flags)?)
    }

    fn wait(&self, events: &mut Vec<epoll::Event>, until: Instant) -> Result<()> {
        // Once in a while in any case, so that the measured part begins in time.
        let time = until.saturating_duration_since(Instant::now()).min(Duration::from_millis(5));
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn progress(&mut self, connection: usize, flags: EventFlags, is_on: bool) -> Result<()> {
        let Some((number, written)) = self.connections[connection].request else {
            return self.replace(connection);
        };
        let request = self.requests.get(number);
        if flags.contains(EventFlags::OUT) && written < request.len() {
            match self.connections[connection].write(number, request) {
                Ok(true) => self.interest(connection, EventFlags::IN)?,
                Ok(false) => {}
                Err(_) => return self.broken(connection, number),
            }
        }
        match self.connections[connection].read() {
            Progress::Waiting => Ok(()),
            Progress::Broken => self.broken(connection, number),
            Progress::Answered(status) => {
                self.answered(number, status);
                self.connections[connection].request = None;
                match (is_on, &self.plan.schedule, self.late.pop_front()) {
                    (_, Some(_), Some(late)) => self.send(connection, late),
                    (true, None, _) if self.next < self.requests.count() => {
                        self.due.push(Instant::now());
                        self.next += 1;
                        self.send(connection, self.next - 1)
                    }
                    _ => {
                        self.idle.push(connection);
                        Ok(())
                    }
                }
            }
        }
    }

    fn answered(&mut self, number: usize, status: u16) {
        let now = Instant::now();
        self.answered += 1;
        *self.answers.entry(status).or_default() += 1;
        if status != 200 {
            return;
        }
        if self.window.is_some() {
            self.processed += 1;
        }
        // Also those that are answered after the end: the slowest are among them.
        let due = self.due[number];
        if due >= self.begin + self.plan.warm_up {
            let micros = now.duration_since(due).as_micros().try_into().unwrap_or(u64::MAX);
            self.latencies.saturating_record(micros);
        }
    }

    fn broken(&mut self, connection: usize, number: usize) -> Result<()> {
        self.answered(number, 0);
        self.replace(connection)
    }

    fn replace(&mut self, connection: usize) -> Result<()> {
        let _ = epoll::delete(&self.epoll, &self.connections[connection].stream);
        let anew = Connection::open(self.plan.address)?;
        epoll::add(&self.epoll, &anew.stream, EventData::new_u64(connection as u64), EventFlags::IN)?;
        self.connections[connection] = anew;
        if !self.idle.contains(&connection) {
            self.idle.push(connection);
        }
        Ok(())
    }
}
