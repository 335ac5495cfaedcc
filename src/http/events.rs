//! `GET /api/v1/events`: what happens, as it happens (Server-Sent Events).
//!
//! Each event has the place in the feed at which a stream goes on behind it: who comes back with `Last-Event-ID` loses nothing and hears
//! nothing twice, also after a restart of the daemon. Where that place is not there any more the stream begins with `reset`.
//! A place is `<mirror>-<number>`, or `<mirror>-<number>+<n>`: behind so many events of what comes next.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::json;

use super::Api;
use super::caller::Caller;
use super::extract::{Parameters, shown};
use super::problem::Problem;
use crate::item::event::Event;
use crate::item::listening::{self, Wish};
use crate::lanes::feed::{Heard, Listener, MOST_OF_ONE, MOST_STREAMS, TooMany};
use crate::mirror::changes::WaitingChange;

/// After how many milliseconds a client that lost its stream comes back.
const COME_BACK: u32 = 2_000;

/// After so long without anything that a client wants it is told that the stream lives.
const QUIET: Duration = Duration::from_secs(15);

/// Where a stream goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Everything up to this number was heard,
    number: i64,
    /// and so many events of the next.
    of_next: usize,
}

impl Place {
    fn read(text: &str) -> Option<(&str, Self)> {
        let (mirror, rest) = text.split_once('-')?;
        let (number, of_next) = rest.split_once('+').unwrap_or((rest, "0"));
        let place = Self { number: number.parse().ok().filter(|number| *number >= 0)?, of_next: of_next.parse().ok()? };
        (!mirror.is_empty()).then_some((mirror, place))
    }

    fn text(self, mirror: &str) -> String {
        match self.of_next {
            0 => format!("{mirror}-{}", self.number),
            n => format!("{mirror}-{}+{n}", self.number),
        }
    }
}

/// What is wanted of the feed, and from where on.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documents what is read")]
pub(super) struct EventsQuery {
    /// Patterns for types of events, like `item.exception.*`; several by commas or by repeating it. None: all.
    r#type: Option<String>,
    /// Patterns for keys of queues, likewise. None: all, and what is about no queue.
    queue: Option<String>,
    /// The id of an event: what came behind it, instead of what comes from now on. `Last-Event-ID` goes before it.
    after: Option<String>,
}

/// `GET /api/v1/events`: what happens, as it happens, without an end (Server-Sent Events).
#[utoipa::path(get, path = "/api/v1/events", operation_id = "stream_events", tag = "events",
    params(EventsQuery, ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was heard")),
    responses((status = 200, description = "Events, until the client or the daemon ends it", body = String, content_type = "text/event-stream")))]
pub(super) async fn stream(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let wish = wish(&mut parameters);
    let asked = parameters.one("after");
    // A client that comes back asks the same URL again: where it has come to since goes first.
    let last = headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default().to_owned());
    if let Some(asked) = asked.as_deref().filter(|asked| Place::read(asked).is_none()) {
        let detail = format!("'{}' is no place in the feed; allowed: the id of an event", shown(asked));
        parameters.fault("after", detail);
    }
    parameters.done()?;

    let mirror = short(&api.mirror.identity().await?);
    let from = last.or(asked);
    let place = from.as_deref().and_then(Place::read).filter(|(of, _)| *of == mirror).map(|(_, place)| place);
    let listening = api.feed.listen(place.map(|place| place.number), caller.counted_as()).await?;
    let listener = listening.map_err(|too_many| {
        let detail = match too_many {
            TooMany::OfAll => format!("{MOST_STREAMS} streams are open already; ask again later"),
            TooMany::OfOne => format!("{MOST_OF_ONE} streams of yours are open already; close some"),
        };
        Problem::unavailable("too_many_streams", detail)
    })?;
    let mut telling = Telling { listener, caller, wish, mirror, spot: place, told: None, quiet: QUIET };
    let mut begin = format!("retry: {COME_BACK}\n\n");
    match (&from, place) {
        // Of another mirror, or no place at all: nobody knows what was heard.
        (Some(from), None) => telling.reset(&mut begin, from),
        _ => telling.mark(&mut begin),
    }
    let begin = stream::iter([Ok::<_, Infallible>(Bytes::from(begin))]);
    let rest = stream::unfold(Some(telling), |telling| async move {
        let mut telling = telling?;
        let piece = telling.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(piece)), Some(telling)))
    });
    let mut response = Body::from_stream(futures::StreamExt::chain(begin, rest)).into_response();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

fn wish(parameters: &mut Parameters) -> Wish {
    let mut read = |name: &'static str, wrong: fn(&str) -> Option<String>| {
        let values = parameters.many(name);
        let patterns: Vec<String> = values.iter().flat_map(|value| value.split(',')).map(str::to_owned).collect();
        for problem in patterns.iter().filter_map(|pattern| wrong(pattern)) {
            parameters.fault(name, problem);
        }
        patterns
    };
    Wish { types: read("type", listening::wrong_type), queues: read("queue", listening::wrong_queue) }
}

/// Enough of a mirror's identity to tell it from another one; its end is random.
fn short(identity: &str) -> String {
    let tail: Vec<char> = identity.chars().filter(char::is_ascii_alphanumeric).collect();
    tail[tail.len().saturating_sub(8)..].iter().collect()
}

/// One stream.
struct Telling {
    listener: Listener,
    caller: Caller,
    wish: Wish,
    mirror: String,
    /// Where it began, until what comes next is told.
    spot: Option<Place>,
    /// The place that the client was last told.
    told: Option<i64>,
    quiet: Duration,
}

impl Telling {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        // Of what this client wants, however much happens besides.
        let quiet = tokio::time::sleep(self.quiet);
        tokio::pin!(quiet);
        loop {
            let mut piece = String::new();
            let heard = tokio::select! {
                heard = self.listener.next() => heard,
                () = &mut quiet => {
                    piece.push_str(": nothing happened\n");
                    self.mark(&mut piece);
                    return Some(piece);
                }
                // Who may not ask any more is not told any more.
                () = self.caller.gone() => return None,
            };
            match heard {
                Ok(Heard::Rows(rows)) => {
                    for row in &rows {
                        self.tell(&mut piece, row);
                    }
                    // A client that hears little keeps up with the feed all the same.
                    if piece.is_empty()
                        && self.told.is_none_or(|told| told.saturating_add(1_000) < self.listener.position())
                    {
                        self.mark(&mut piece);
                    }
                }
                Ok(Heard::Reset { after, .. }) => {
                    let after = Place { number: after, of_next: 0 }.text(&self.mirror);
                    self.reset(&mut piece, &after);
                }
                Ok(Heard::End) => return None,
                Err(error) => {
                    // The client comes back, and tells where it was.
                    tracing::debug!(error = &error as &dyn std::error::Error, "a stream of events ends");
                    return None;
                }
            }
            if !piece.is_empty() {
                return Some(piece);
            }
        }
    }

    /// It is wanted, and may be known: who has some queues only hears of nothing else.
    fn tells(&self, event: &Event) -> bool {
        let may = match &event.queue {
            Some(queue) => self.caller.may(queue),
            None => self.caller.everywhere(),
        };
        may && self.wish.wants(event)
    }

    fn tell(&mut self, piece: &mut String, row: &WaitingChange) {
        let place = self.spot.take().filter(|place| place.number.saturating_add(1) == row.seq);
        let heard = place.map_or(0, |place| place.of_next);
        let whole = Place { number: row.seq, of_next: 0 };
        let Some(events) = &row.events else {
            // Nobody can say whose it was.
            if !self.caller.everywhere() {
                return;
            }
            let data = json!({ "why": "it was of an item that is not kept any more" });
            write(piece, "gap", &whole.text(&self.mirror), &data.to_string());
            self.told = Some(row.seq);
            return;
        };
        for (index, event) in events.iter().enumerate().skip(heard) {
            if !self.tells(event) {
                continue;
            }
            let place =
                if index + 1 == events.len() { whole } else { Place { number: row.seq - 1, of_next: index + 1 } };
            write(piece, &event.kind, &place.text(&self.mirror), &event.timed_body());
            self.told = Some(row.seq);
        }
    }

    /// Tells the place alone, which is no event to the client.
    fn mark(&mut self, piece: &mut String) {
        let number = self.listener.position();
        let place = self.spot.filter(|place| place.number == number).unwrap_or(Place { number, of_next: 0 });
        let _ = write!(piece, "id: {}\n\n", place.text(&self.mirror));
        self.told = Some(number);
    }

    fn reset(&mut self, piece: &mut String, after: &str) {
        let data = json!({
            "after": shown(after),
            "why": "what came behind this place is not there any more; read anew what you keep a copy of",
        });
        let place = Place { number: self.listener.position(), of_next: 0 };
        write(piece, "reset", &place.text(&self.mirror), &data.to_string());
        self.spot = None;
        self.told = Some(place.number);
    }
}

/// One event. A line of the form is one line: what a newer version wrote into the feed cannot break it.
fn write(piece: &mut String, kind: &str, id: &str, data: &str) {
    let one_line = |text: &str| text.replace(['\r', '\n'], " ");
    piece.reserve(data.len() + 128);
    let _ = write!(piece, "event: {}\nid: {id}\ndata: {}\n\n", one_line(kind), one_line(data));
}

#[cfg(test)]
mod tests {
    use super::super::access::TABLE;
    use super::super::caller::tests::caller_of;
    use super::super::tests::Bench;
    use super::*;
    use crate::mirror::control::{Event, add_events};

    fn caller(queues: &[&str]) -> Caller {
        let rule = TABLE.iter().find(|rule| rule.path == "/api/v1/events").unwrap();
        caller_of(rule.need, queues)
    }

    #[test]
    fn places_are_read_as_they_are_written() {
        for (text, expected) in [
            ("ab12-7", Some(("ab12", 7, 0))),
            ("ab12-7+1", Some(("ab12", 7, 1))),
            ("ab12-0", Some(("ab12", 0, 0))),
            ("-7", None),
            ("7", None),
            ("ab12--7", None),
            ("ab12-7+", None),
            ("ab12-7+-1", None),
            ("ab12-99999999999999999999", None),
            ("", None),
        ] {
            let read = Place::read(text);
            assert_eq!(read.map(|(mirror, place)| (mirror, place.number, place.of_next)), expected, "{text}");
            if let Some((mirror, place)) = read {
                assert_eq!(place.text(mirror), text);
            }
        }
        assert_eq!(short("0197ab3c-7d51-7c3e-9d0e-0b5f3c1f2a11"), "3c1f2a11");
    }

    async fn telling(bench: &Bench, caller: Caller, queue: &str) -> Telling {
        let listener = bench.api.feed.listen(None, None).await.unwrap().unwrap();
        let wish = Wish { types: Vec::new(), queues: vec![queue.to_owned()] };
        let quiet = Duration::from_millis(30);
        Telling { listener, caller, wish, mirror: "m".to_owned(), spot: None, told: Some(0), quiet }
    }

    async fn pause(bench: &Bench, queue: &str) {
        let event = Event {
            kind: format!("queue.paused.{queue}"),
            at: crate::item::Timestamp::UNIX_EPOCH,
            body: json!({ "queue": queue }),
        };
        let written = bench.api.mirror.write(move |tx| Box::pin(async move { add_events(tx, &[event]).await }));
        written.await.unwrap();
    }

    #[tokio::test]
    async fn a_stream_says_that_it_lives_while_others_are_busy() {
        let bench = Bench::new().await;
        let mut telling = telling(&bench, caller(&["*"]), "invoices").await;
        let feed = tokio::spawn(bench.api.feed.clone().run());
        // Fewer than a place is told for by itself.
        let others = async {
            for _ in 0..900 {
                pause(&bench, "scans").await;
            }
        };
        let piece = tokio::select! {
            piece = telling.next() => piece.unwrap(),
            () = others => panic!("nothing was said all that time"),
        };
        assert!(piece.starts_with(": nothing happened\nid: m-"), "{piece}");
        pause(&bench, "invoices").await;
        let mut heard = String::new();
        while !heard.contains("data:") {
            heard = telling.next().await.unwrap();
        }
        assert!(heard.contains("event: queue.paused"), "{heard}");
        feed.abort();
    }

    #[tokio::test]
    async fn who_may_see_some_queues_hears_of_no_gap_in_others() {
        let bench = Bench::new().await;
        let gap = WaitingChange { seq: 7, events: None };
        for (queues, told) in [(&["*"][..], true), (&["invoices"], false)] {
            let mut telling = telling(&bench, caller(queues), "*").await;
            let mut piece = String::new();
            telling.tell(&mut piece, &gap);
            assert_eq!(piece.starts_with("event: gap"), told, "{piece}");
        }
    }

    #[test]
    fn an_event_is_four_lines_whatever_is_in_it() {
        let mut piece = String::new();
        write(&mut piece, "a\nb", "m-1", "{\"x\":\r\n1}");
        assert_eq!(piece, "event: a b\nid: m-1\ndata: {\"x\":  1}\n\n");
    }
}
