//! Changes the way of a work queue's arrivals: from `wq.items` to the intake, straight to robots, or nowhere.
//!
//! Order of effects: unbind (tap before queue), then bind (queue before tap); never both ways at once, or an item would be
//! there twice. What is published in between has no way and waits in `wq.unrouted`, which is let in at once.
//!
//! - Towards the intake the order of arrival is kept: nothing goes through the door until what fell into the gap did.
//! - Towards the robots what came before goes ahead: the intake is read to its end and the mirror's ready items are out
//!   before the way is open, and what fell into the gap by then goes the same way. What falls into the gap in its last
//!   milliseconds is sent straight the moment the way is open, and may be overtaken by what comes in that moment: RabbitMQ
//!   cannot exchange one binding for another at once, and nobody can hold producers up.
//!
//! | crash after | what is left | what happens then |
//! |---|---|---|
//! | unbind | arrivals wait in `wq.unrouted` | the next plan binds, and they are let in |
//! | bind | some wait in `wq.unrouted` | the next pass lets them in |

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::apply::Rebinding;
use crate::broker::connection::Session;
use crate::broker::consume::Lookout;
use crate::broker::declare::Declarer;
use crate::failpoint;
use crate::lanes::unrouted::{self, Pass, Until};
use crate::lanes::{Context, LaneError, intake, now};

/// How long what came before is waited for until the direct way opens all the same: then only order suffers.
const AHEAD: Duration = Duration::from_secs(10);

/// What has been routed is in its queue after this.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// A stop waits for the end of a pass no longer than this.
const CLEARANCE: Duration = Duration::from_secs(2);

/// While producers never rest there is always something in the gap: the shorter it was open the less.
const ROUNDS: u32 = 3;

/// Where a rebinding leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Towards {
    Door,
    Robots,
    /// Nothing is bound, or nothing that matters for the order.
    Nowhere,
}

/// Carries one out.
///
/// # Errors
/// The first refusal of the broker, or a mirror that cannot be written.
pub(super) async fn rebind(
    context: &Context,
    session: &Session,
    key: &str,
    rebinding: &Rebinding,
    stop: &CancellationToken,
) -> Result<(), LaneError> {
    let declarer = Declarer::open(session).await?;
    match towards(context, rebinding) {
        Towards::Door => {
            // What has been waiting for this queue goes ahead, while nothing new comes.
            unrouted::pass(context, session, Until::AsManyAsThere, stop).await?;
            let _door = context.wakes.door.lock().await;
            change(&declarer, rebinding).await?;
            unrouted::pass(context, session, Until::AllOfIt, stop).await?;
            // What was routed in the moment before may not have been there yet.
            tokio::time::sleep(ON_ITS_WAY).await;
            unrouted::pass(context, session, Until::AllOfIt, stop).await?;
        }
        Towards::Robots => {
            // Nobody sends what falls into the gap straight before the way is open: it would come back behind what came later.
            context.live.update(|in_force| {
                in_force.open.remove(key);
            });
            for binding in &rebinding.unbind {
                declarer.unbind(binding).await?;
            }
            failpoint::reach("rebind.unbound").await;
            // One pass over all of it: what falls into the gap in its last moment is at hand when the way opens.
            let mut gap = Pass::begin(context, session).await?;
            if !rebinding.unbind.is_empty() {
                // Late: the way opens all the same. A pass gives back what it holds, in its order, so it is told and not dropped,
                // but for the end of everything.
                let late = stop.child_token();
                tokio::select! {
                    ahead = all_goes_ahead(context, session, key, &mut gap, &late) => ahead?,
                    () = async {
                        tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(AHEAD) => {} }
                        late.cancel();
                        stop.cancelled().await;
                        tokio::time::sleep(CLEARANCE).await;
                    } => {}
                }
            }
            for binding in &rebinding.bind {
                declarer.bind(binding).await?;
            }
            failpoint::reach("rebind.bound").await;
            context.live.update(|in_force| {
                in_force.open.insert(key.to_owned());
            });
            gap.straight_is_open(key);
            gap.let_in(None, Until::AllOfIt, stop).await?;
            gap.end().await?;
        }
        Towards::Nowhere => change(&declarer, rebinding).await?,
    }
    Ok(declarer.close().await?)
}

fn towards(context: &Context, rebinding: &Rebinding) -> Towards {
    let leads_to = |queue: &str| rebinding.bind.iter().any(|binding| binding.queue == queue);
    match () {
        () if leads_to(&context.names.intake()) => Towards::Door,
        () if rebinding.bind.is_empty() => Towards::Nowhere,
        () => Towards::Robots,
    }
}

async fn change(declarer: &Declarer, rebinding: &Rebinding) -> Result<(), LaneError> {
    for binding in &rebinding.unbind {
        declarer.unbind(binding).await?;
    }
    failpoint::reach("rebind.unbound").await;
    for binding in &rebinding.bind {
        declarer.bind(binding).await?;
    }
    failpoint::reach("rebind.bound").await;
    Ok(())
}

/// What came before is with the broker, also what fell into the gap meanwhile.
async fn all_goes_ahead(
    context: &Context,
    session: &Session,
    key: &str,
    gap: &mut Pass<'_>,
    stop: &CancellationToken,
) -> Result<(), LaneError> {
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        read = intake_is_read(context, session) => read?,
    }
    all_is_out(context, key, stop).await?;
    for _ in 0..ROUNDS {
        if stop.is_cancelled() || gap.let_in(Some(key), Until::AsManyAsThere, stop).await? == 0 {
            break;
        }
        all_is_out(context, key, stop).await?;
    }
    Ok(())
}

/// What was in the intake is in the mirror: it was seen empty, or as much was taken in as there was. Other queues' items may
/// come without end; where they are more urgent, what they overtook is not waited for.
async fn intake_is_read(context: &Context, session: &Session) -> Result<(), LaneError> {
    let mut taken_in = context.wakes.taken_in.subscribe();
    let before = *taken_in.borrow_and_update();
    let (ready, _) = Lookout::open(session).await?.look(&context.names.intake()).await?;
    let all = before + ready + intake::MOST_HELD;
    tokio::select! {
        () = context.wakes.read_intake.up_to(now()) => {}
        _ = taken_in.wait_for(|taken_in| *taken_in >= all) => {}
    }
    Ok(())
}

/// What the mirror has ready is with the broker.
async fn all_is_out(context: &Context, key: &str, stop: &CancellationToken) -> Result<(), LaneError> {
    while !stop.is_cancelled() && context.mirror.before_dispatch(key, 1).await? > 0 {
        context.wakes.dispatch(key);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
