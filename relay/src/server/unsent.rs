//! An answer's body, which counts as unsent until the connection has taken it.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use super::connections::Unsent;

/// What a request is answered with. HTTP/2 asks for it when its sender lets it through, and drops it then; until that it
/// keeps its stream in memory.
pub(super) struct Answer {
    body: Full<Bytes>,
    _unsent: Option<Unsent>,
}

impl Answer {
    pub(super) fn new(body: Full<Bytes>, unsent: Option<Unsent>) -> Self {
        Self { body, _unsent: unsent }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        pin!(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
