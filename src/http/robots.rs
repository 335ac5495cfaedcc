//! Who works: robots and people by what they report, and who is connected without a word.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::caller::Caller;
use super::extract::{PageQuery, Parameters};
use super::problem::Problem;
use super::queues::no_such_queue;
use super::view::{List, Timed};
use crate::item::robots::Busy;
use crate::item::{ItemId, Timestamp};
use crate::lanes::now;
use crate::mirror::RobotCursor;
use crate::mirror::robots::{AtWork, Robot};
use crate::status::Snapshot;

/// `GET /api/v1/robots`: by name, each with what it works on.
#[utoipa::path(get, path = "/api/v1/robots", operation_id = "list_robots", tag = "insight",
    params(("queue" = Option<String>, Query, description = "The queue's key"), PageQuery),
    responses((status = 200, description = "Who works, and who is connected", body = RobotList)))]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut parameters: Parameters,
) -> Result<Json<RobotList>, Problem> {
    let queue = parameters.one("queue");
    let limit = parameters.limit() as usize;
    let cursor: Option<RobotCursor> = parameters.cursor();
    parameters.done()?;
    let in_force = api.live.now();
    let mut served: Vec<String> = in_force.served().filter(|key| caller.may(key)).cloned().collect();
    if let Some(queue) = &queue {
        served.retain(|key| key == queue);
        if served.is_empty() {
            return Err(no_such_queue(queue));
        }
    }
    served.sort_unstable();

    let (now, status) = (now(), api.status.snapshot());
    let mut known = api.mirror.robots(queue.as_deref()).await?;
    known.retain(|robot| caller.may(&robot.queue));
    // Of all queues together.
    let forgotten = if caller.everywhere() { Some(api.mirror.forgotten("robots").await?) } else { None };
    let mut at_work = Vec::new();
    for key in &served {
        at_work.extend(api.mirror.at_work(key).await?);
    }
    let consumers = served.iter().map(|key| ConsumersView::of(key, &known, &status, now)).collect();
    let mut robots = put_together(known, at_work, &hanging(&status), now);
    let name = |robot: &RobotView| (robot.name.clone().unwrap_or_default(), robot.unnamed_of());
    if let Some(RobotCursor { name: last, queue }) = cursor {
        robots.retain(|robot| name(robot) > (last.clone(), queue.clone()));
    }
    let more = robots.len() > limit;
    robots.truncate(limit);
    let next = robots.last().filter(|_| more).map(|last| {
        let (name, queue) = name(last);
        RobotCursor { name, queue }.to_string()
    });
    Ok(Json(RobotList { list: List { items: robots, next }, consumers, forgotten }))
}

/// Items with robots that are said to hang.
fn hanging(status: &Snapshot) -> Vec<ItemId> {
    status
        .attention
        .iter()
        .filter(|((_, what), _)| *what == "hanging")
        .flat_map(|(_, seen)| seen.held.iter().map(|held| held.item))
        .collect()
}

/// One for each name, and one for each queue in which some give none. By name.
fn put_together(known: Vec<Robot>, at_work: Vec<AtWork>, hanging: &[ItemId], now: Timestamp) -> Vec<RobotView> {
    let mut robots: BTreeMap<(String, String), RobotView> = BTreeMap::new();
    let mut sums: BTreeMap<(String, String), (Busy, Timestamp, bool)> = BTreeMap::new();
    let key = |name: &Option<String>, queue: &String| match name {
        Some(name) => (name.clone(), String::new()),
        None => (String::new(), queue.clone()),
    };
    for robot in known {
        let key = key(&robot.name, &robot.queue);
        let view = robots.entry(key.clone()).or_insert_with(|| RobotView::called(robot.name.clone(), robot.first_seen));
        let sum = sums.entry(key).or_insert((Busy::default(), robot.first_seen, true));
        *sum = (sum.0.and(robot.busy), sum.1.min(robot.first_seen), sum.2 && robot.timed != Some(false));
        view.add(robot);
    }
    for work in at_work {
        // What the timeline calls a robot that gives no name.
        let name = work.robot.clone().filter(|name| name != "robot");
        let key = key(&name, &work.queue);
        let view = robots.entry(key.clone()).or_insert_with(|| RobotView::called(name, work.since));
        if let Some((busy, ..)) = sums.get_mut(&key) {
            *busy = busy.and(Busy::span(work.since, now));
        }
        view.hanging |= hanging.contains(&work.item);
        if !view.queues.contains(&work.queue) {
            view.queues.push(work.queue.clone());
        }
        view.items.push(WorkView {
            id: work.item.to_string(),
            queue: work.queue,
            reference: work.reference,
            since: Timed(work.since),
        });
    }
    for (key, (busy, first_heard, timed)) in sums {
        if let Some(view) = robots.get_mut(&key).filter(|view| timed && (view.timed || !view.items.is_empty())) {
            // Many robots without a name are no one that could be busy.
            let share = view.name.as_ref().and_then(|_| busy.share(first_heard, now));
            view.busy = share.map(|share| (share * 1_000.0).round() / 1_000.0);
        }
    }
    robots.into_values().collect()
}

#[derive(Serialize, ToSchema)]
#[schema(as = RobotList)]
pub(super) struct RobotList {
    #[serde(flatten)]
    list: List<RobotView>,
    /// Who consumes on the broker, by queue.
    consumers: Vec<ConsumersView>,
    /// Robots that were dropped because there were too many names; `null` for whom not every queue is.
    forgotten: Option<u64>,
}

/// A robot, or a person who works, as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Robot)]
pub(super) struct RobotView {
    /// As it calls itself; `null`: all of a queue that give no name.
    name: Option<String>,
    /// As the broker verified it the last time.
    user: Option<String>,
    /// In which it was heard of.
    queues: Vec<String>,
    /// What it said it started and has not ended.
    items: Vec<WorkView>,
    /// Share of the last hour; `null` where it does not say when it starts.
    busy: Option<f64>,
    ok: u64,
    failed: u64,
    /// Given back or set aside.
    other: u64,
    first_seen: Timed,
    last_seen: Timed,
    /// It said nothing of an item for far longer than usual.
    hanging: bool,
    #[serde(skip)]
    timed: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AtWork)]
struct WorkView {
    id: String,
    queue: String,
    reference: Option<String>,
    since: Timed,
}

impl RobotView {
    const fn called(name: Option<String>, since: Timestamp) -> Self {
        Self {
            name,
            user: None,
            queues: Vec::new(),
            items: Vec::new(),
            busy: None,
            ok: 0,
            failed: 0,
            other: 0,
            first_seen: Timed(since),
            last_seen: Timed(since),
            hanging: false,
            timed: false,
        }
    }

    fn add(&mut self, robot: Robot) {
        if robot.last_seen >= self.last_seen.0 {
            self.user = robot.user.or(self.user.take());
        }
        (self.ok, self.failed, self.other) = (self.ok + robot.ok, self.failed + robot.failed, self.other + robot.other);
        self.first_seen.0 = self.first_seen.0.min(robot.first_seen);
        self.last_seen.0 = self.last_seen.0.max(robot.last_seen);
        self.timed |= robot.timed == Some(true);
        self.queues.push(robot.queue);
    }

    /// Of those without a name, the queue that tells them apart.
    fn unnamed_of(&self) -> String {
        self.queues.first().filter(|_| self.name.is_none()).cloned().unwrap_or_default()
    }
}

/// Who consumes from a robots' queue.
#[derive(Serialize, ToSchema)]
#[schema(as = Consumers)]
struct ConsumersView {
    queue: String,
    /// Connected, as the broker counts; `null` where not seen yet.
    consumers: Option<u64>,
    /// Items with them; `null` without the management API.
    unacked: Option<u64>,
    /// Names that reported of this queue within the last hour.
    heard: u64,
    /// So many consumers at least said no word in the last hour; `null` where not known.
    silent: Option<u64>,
}

impl ConsumersView {
    fn of(key: &str, known: &[Robot], status: &Snapshot, now: Timestamp) -> Self {
        let seen = status.queues.get(key).copied().unwrap_or_default();
        let lately = |robot: &&Robot| {
            robot.queue == key && now.duration_since(robot.last_seen) < jiff::SignedDuration::from_hours(1)
        };
        let names: Vec<&Robot> = known.iter().filter(lately).collect();
        // Behind no name there may be any number.
        let unnamed = names.iter().any(|robot| robot.name.is_none());
        let heard = names.iter().filter(|robot| robot.name.is_some()).count() as u64;
        let silent = seen.consumers.filter(|_| !unnamed).map(|consumers| consumers.saturating_sub(heard));
        Self { queue: key.to_owned(), consumers: seen.consumers, unacked: seen.unacked, heard, silent }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn robot(queue: &str, name: Option<&str>, last_seen: i64) -> Robot {
        Robot {
            queue: queue.to_owned(),
            name: name.map(str::to_owned),
            user: Some(format!("u-{queue}")),
            first_seen: second(0),
            last_seen: second(last_seen),
            ok: 2,
            failed: 1,
            other: 0,
            timed: Some(true),
            busy: Busy::span(second(last_seen - 900), second(last_seen)),
        }
    }

    fn work(queue: &str, robot: &str, id: u128, since: i64) -> AtWork {
        AtWork {
            queue: queue.to_owned(),
            robot: Some(robot.to_owned()),
            item: ItemId::new(Uuid::from_u128(id)),
            reference: None,
            since: second(since),
        }
    }

    #[test]
    fn a_robot_is_one_in_all_its_queues_and_the_unnamed_are_one_in_each() {
        let known = vec![
            robot("a", Some("r1"), 6_000),
            robot("b", Some("r1"), 6_300),
            robot("a", None, 6_000),
            robot("b", None, 6_000),
            Robot { timed: Some(false), ..robot("b", Some("r2"), 6_300) },
        ];
        let at_work = vec![work("b", "r1", 7, 6_300), work("a", "robot", 8, 6_400), work("c", "r3", 9, 6_500)];
        let hanging = [ItemId::new(Uuid::from_u128(9))];
        let robots = put_together(known, at_work, &hanging, second(7_200));
        let names: Vec<Option<&str>> = robots.iter().map(|robot| robot.name.as_deref()).collect();
        assert_eq!(names, [None, None, Some("r1"), Some("r2"), Some("r3")]);
        let one = &robots[2];
        assert_eq!((one.ok, one.failed, one.user.as_deref(), one.last_seen.0), (4, 2, Some("u-b"), second(6_300)));
        assert_eq!((one.queues.as_slice(), one.items.len()), (&["a".to_owned(), "b".to_owned()][..], 1));
        // Half an hour of what is over, and a quarter of what it has.
        assert_eq!(one.busy, Some(0.75));
        assert_eq!((robots[0].busy, robots[0].items.len()), (None, 1), "they are many");
        assert_eq!(robots[3].busy, None, "it does not say when it starts");
        assert_eq!((robots[4].busy, robots[4].hanging, robots[4].ok), (None, true, 0), "it only began");
        assert!(!one.hanging);
    }

    #[test]
    fn who_says_no_word_is_counted_where_that_is_known() {
        let mut status = Snapshot::default();
        let seen = |consumers| crate::status::QueueSeen { ready: None, unacked: None, consumers };
        status.queues.insert("a".to_owned(), seen(Some(3)));
        let named = [robot("a", Some("r1"), 6_000), robot("a", Some("r2"), 100)];
        let count = |known: &[Robot], status: &Snapshot| {
            let view = ConsumersView::of("a", known, status, second(7_000));
            (view.consumers, view.heard, view.silent)
        };
        assert_eq!(count(&named, &status), (Some(3), 1, Some(2)));
        assert_eq!(count(&[robot("a", None, 6_000)], &status), (Some(3), 0, None));
        assert_eq!(count(&named, &Snapshot::default()), (None, 1, None));
    }
}
