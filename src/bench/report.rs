//! What was measured, and what follows from it: medians of the rounds, ratios, percentiles.

use serde::Serialize;

use super::doors::DoorLine;
use super::numbers::{median, percentile, ratio, rounded};
use super::plan::{Plan, Way};

/// Everything, as `--output json` prints it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of warrend.
    pub warrend: &'static str,
    pub broker: BrokerFacts,
    pub machine: Machine,
    pub plan: Plan,
    /// One line per way, in the order of [`Way::ALL`].
    pub ways: Vec<Line>,
    /// What is let in and worked over AMQP and over HTTP.
    pub doors: Vec<DoorLine>,
}

/// The broker it was measured on.
#[derive(Debug, Clone, Serialize)]
pub struct BrokerFacts {
    pub version: String,
    pub node: String,
    /// Type of the robots' queues and of every bare one.
    pub queue_type: String,
    /// Its process was found on this machine, so its processor time is known.
    pub on_this_machine: bool,
}

/// The machine it was measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cores: usize,
}

/// One way in one round.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Round {
    /// From the first publish to the last ack; with reports until the mirror knows all.
    pub seconds: f64,
    pub items_per_second: f64,
    /// How long after that the mirror knew every item.
    pub mirror_behind_seconds: Option<f64>,
    #[serde(flatten)]
    pub cost: Cost,
}

/// What a round took of the machine. Times are processor seconds per 1,000 items, memory bytes at the peak.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cost {
    pub daemon_cpu: Option<f64>,
    pub broker_cpu: Option<f64>,
    /// Publisher and robots, and the forwarder where there is one.
    pub client_cpu: Option<f64>,
    pub daemon_memory: Option<u64>,
    pub broker_memory: Option<u64>,
}

/// From publish to delivery at a given rate, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    pub items: usize,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// How far the publisher itself fell behind the rate at most; not in the numbers above.
    pub publisher_behind_ms: f64,
}

impl Latency {
    /// Of latencies in microseconds, the shortest first; `None` of nothing.
    #[must_use]
    pub fn of(sorted: &[u64], publisher_behind_ms: f64) -> Option<Self> {
        let at = |per_mille| percentile(sorted, per_mille).map(milliseconds);
        Some(Self {
            items: sorted.len(),
            p50_ms: at(500)?,
            p95_ms: at(950)?,
            p99_ms: at(990)?,
            max_ms: at(1000)?,
            publisher_behind_ms: rounded(publisher_behind_ms),
        })
    }
}

fn milliseconds(micros: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
    let micros = micros as f64;
    rounded(micros / 1000.0)
}

/// What was measured of one way.
#[derive(Debug, Default)]
pub struct Measured {
    /// Why this broker cannot do it.
    pub unavailable: Option<String>,
    pub rounds: Vec<Round>,
    pub latency: Option<Latency>,
}

impl Measured {
    fn rate(&self) -> Option<f64> {
        median(&self.rounds.iter().map(|round| round.items_per_second).collect::<Vec<_>>())
    }

    /// Medians of the times, the peaks of memory.
    fn cost(&self) -> Cost {
        let middle = |time: fn(&Cost) -> Option<f64>| {
            let times: Vec<f64> = self.rounds.iter().filter_map(|round| time(&round.cost)).collect();
            median(&times)
        };
        let peak = |memory: fn(&Cost) -> Option<u64>| self.rounds.iter().filter_map(|round| memory(&round.cost)).max();
        Cost {
            daemon_cpu: middle(|cost| cost.daemon_cpu).map(rounded),
            broker_cpu: middle(|cost| cost.broker_cpu).map(rounded),
            client_cpu: middle(|cost| cost.client_cpu).map(rounded),
            daemon_memory: peak(|cost| cost.daemon_memory),
            broker_memory: peak(|cost| cost.broker_memory),
        }
    }
}

/// One way over all rounds. What is not known, or means nothing for this way, is null.
#[derive(Debug, Serialize)]
pub struct Line {
    pub way: &'static str,
    /// Why it was left out.
    pub unavailable: Option<String>,
    /// The median of the rounds.
    pub items_per_second: Option<f64>,
    pub to_raw: Option<f64>,
    pub to_fan_out: Option<f64>,
    pub to_shovel: Option<f64>,
    pub to_forwarder: Option<f64>,
    #[serde(flatten)]
    pub cost: Cost,
    pub latency: Option<Latency>,
    pub rounds: Vec<Round>,
}

/// The lines of everything that was measured.
#[must_use]
pub fn lines(measured: Vec<(Way, Measured)>) -> Vec<Line> {
    let rates: Vec<(Way, Option<f64>)> = measured.iter().map(|(way, measured)| (*way, measured.rate())).collect();
    let rate = |way: Way| rates.iter().find(|(known, _)| *known == way).and_then(|(_, rate)| *rate);
    measured
        .into_iter()
        .map(|(way, measured)| {
            let to = |base: Way| {
                let compared = base == Way::Raw || way.compared_with().contains(&base);
                if compared { ratio(rate(way), rate(base)).map(rounded) } else { None }
            };
            Line {
                way: way.name(),
                items_per_second: rate(way).map(rounded),
                to_raw: to(Way::Raw),
                to_fan_out: to(Way::FanOut),
                to_shovel: to(Way::Shovel),
                to_forwarder: to(Way::Forwarder),
                cost: measured.cost(),
                unavailable: measured.unavailable,
                latency: measured.latency,
                rounds: measured.rounds,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rates: &[f64]) -> Measured {
        let rounds = rates.iter().zip(1_u32..).map(|(rate, number)| Round {
            items_per_second: *rate,
            cost: Cost {
                daemon_cpu: Some(f64::from(number)),
                daemon_memory: Some(u64::from(number)),
                ..Cost::default()
            },
            ..Round::default()
        });
        Measured { rounds: rounds.collect(), ..Measured::default() }
    }

    #[test]
    fn lines_compare_medians_with_what_they_are_to_be_compared_with() {
        let lines = lines(vec![
            (Way::Raw, measured(&[100.0, 900.0, 1000.0])),
            (Way::Shovel, Measured { unavailable: Some("no plugin".to_owned()), ..Measured::default() }),
            (Way::Forwarder, measured(&[450.0])),
            (Way::FanOut, measured(&[600.0])),
            (Way::Direct, measured(&[540.0])),
            (Way::Managed, measured(&[300.0, 200.0])),
        ]);
        let line = |way: &str| lines.iter().find(|line| line.way == way).unwrap();
        assert_eq!((line("raw").items_per_second, line("raw").to_raw), (Some(900.0), Some(1.0)));
        assert_eq!((line("direct").to_raw, line("direct").to_fan_out), (Some(0.6), Some(0.9)));
        assert_eq!((line("direct").to_shovel, line("forwarder").to_forwarder), (None, None));
        let managed = line("managed");
        assert_eq!((managed.to_shovel, managed.to_forwarder, managed.to_fan_out), (None, Some(0.56), None));
        assert_eq!((managed.cost.daemon_cpu, managed.cost.daemon_memory), (Some(1.5), Some(2)));
        let shovel = line("shovel");
        assert_eq!(
            (shovel.unavailable.as_deref(), shovel.items_per_second, shovel.to_raw),
            (Some("no plugin"), None, None)
        );
    }

    #[test]
    fn latencies_are_told_in_milliseconds() {
        let sorted: Vec<u64> = (1..=1000).map(|n| n * 10).collect();
        let latency = Latency::of(&sorted, 0.5).unwrap();
        assert_eq!(
            latency,
            Latency { items: 1000, p50_ms: 5.0, p95_ms: 9.5, p99_ms: 9.9, max_ms: 10.0, publisher_behind_ms: 0.5 }
        );
        assert_eq!(Latency::of(&[], 0.0), None);
    }
}
