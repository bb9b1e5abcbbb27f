//! One keep-alive HTTP/1.1 connection: writes a prepared request, reads the answer, knows nothing of time.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// The largest answer that is read; a relay's are far smaller.
const LARGEST_ANSWER: usize = 16 << 10;

/// A connection with at most one request in flight.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    /// The request in flight, and how much of it is written.
    pub(crate) request: Option<(usize, usize)>,
    answer: Vec<u8>,
    read: usize,
}

/// What the socket gave.
pub(crate) enum Progress {
    /// The answer is not whole yet.
    Waiting,
    /// The answer's status.
    Answered(u16),
    /// The connection is of no more use.
    Broken,
}

impl Connection {
    /// Connects.
    pub(crate) fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, request: None, answer: vec![0; 1024], read: 0 })
    }

    /// Writes what is left of request `number`; whether all of it is written.
    pub(crate) fn write(&mut self, number: usize, request: &[u8]) -> std::io::Result<bool> {
        let mut written = match self.request {
            Some((in_flight, written)) if in_flight == number => written,
            _ => 0,
        };
        while written < request.len() {
            match self.stream.write(&request[written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(more) => written += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.request = Some((number, written));
        Ok(written == request.len())
    }

    /// Reads what is there.
    pub(crate) fn read(&mut self) -> Progress {
        loop {
            if self.read == self.answer.len() {
                if self.read >= LARGEST_ANSWER {
                    return Progress::Broken;
                }
                self.answer.resize(self.read * 2, 0);
            }
            match self.stream.read(&mut self.answer[self.read..]) {
                Ok(0) => return Progress::Broken,
                Ok(more) => self.read += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Waiting,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Progress::Broken,
            }
            match parse(&self.answer[..self.read]) {
                Parsed::Partly => {}
                Parsed::Answer(status) => {
                    self.read = 0;
                    return Progress::Answered(status);
                }
                Parsed::Nonsense => return Progress::Broken,
            }
        }
    }
}

/// What the bytes of an answer are.
#[derive(Debug, PartialEq)]
pub(crate) enum Parsed {
    /// Not all of it.
    Partly,
    /// A whole answer of this status.
    Answer(u16),
    /// No answer to one request.
    Nonsense,
}

/// Looks at the bytes that have come of an answer.
pub(crate) fn parse(answer: &[u8]) -> Parsed {
    let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else { return Parsed::Partly };
    let Ok(text) = str::from_utf8(&answer[..head]) else { return Parsed::Nonsense };
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    match (status, length) {
        (Some(status), Some(length)) if answer.len() == head + 4 + length => Parsed::Answer(status),
        (Some(_), Some(length)) if answer.len() < head + 4 + length => Parsed::Partly,
        _ => Parsed::Nonsense,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: y\r\n\r\n{}";
        assert_eq!(parse(answer), Parsed::Answer(200));
        for end in 0..answer.len() {
            assert_eq!(parse(&answer[..end]), Parsed::Partly);
        }
    }

    #[test]
    fn what_is_no_answer_to_one_request_is_nonsense() {
        for answer in
            ["HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{}", "HTTP/1.1 204 No\r\n\r\n", "x\r\n\r\n"]
        {
            assert_eq!(parse(answer.as_bytes()), Parsed::Nonsense, "{answer}");
        }
    }
}
