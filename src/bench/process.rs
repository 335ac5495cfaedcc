//! What processes cost, read from `/proc`. On other systems, and of processes that are not ours to see, nothing is known.

use std::fs;
use std::path::Path;

/// The processor time a process has taken so far, in seconds.
#[must_use]
pub(super) fn cpu_seconds(pid: u32) -> Option<f64> {
    let ticks = cpu_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    #[expect(clippy::cast_precision_loss, reason = "ticks of hours")]
    let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Some(seconds)
}

/// The most memory a process has had resident so far, in bytes.
#[must_use]
pub(super) fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib: u64 = status_field(&status, "VmHWM")?.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The process of the broker's node, where it runs on this machine: an Erlang machine whose number is, inside its
/// container if it has one, what the node says of itself. Of several the one that carries the node's name, or its host's,
/// in its command line or its control group; `None` where that does not tell.
#[must_use]
pub(super) fn broker_process(node: &str, os_pid: &str) -> Option<u32> {
    let mut found: Vec<u32> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| is_erlang(*pid) && number_inside(*pid).as_deref() == Some(os_pid))
        .collect();
    if found.len() > 1 {
        found.retain(|pid| names_node(*pid, node));
    }
    match found[..] {
        [pid] => Some(pid),
        _ => None,
    }
}

fn is_erlang(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "beam.smp")
}

/// Its number as it knows it itself.
fn number_inside(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(status_field(&status, "NSpid")?.split_whitespace().last()?.to_owned())
}

fn names_node(pid: u32, node: &str) -> bool {
    let says = |file: &str, word: &str| {
        let path = format!("/proc/{pid}/{file}");
        !word.is_empty() && fs::read(Path::new(&path)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(word))
    };
    let host = node.split_once('@').map_or("", |(_, host)| host);
    says("cmdline", node) || says("cgroup", host)
}

/// Ticks in user and kernel mode: the 14th and 15th field of `/proc/PID/stat`. The second, the name, may hold spaces and
/// parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace().skip(11);
    let (user, kernel): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + kernel)
}

fn status_field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 100 0 0 0 120 34 5 6 20 0 1 0 99";
        assert_eq!(cpu_ticks(stat), Some(154));
        assert_eq!(cpu_ticks("7 (x) S 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn fields_of_a_status_are_found_by_their_whole_name() {
        let status = "Name:\tx\nVmHWMs:\t1 kB\nVmHWM:\t  2048 kB\nNSpid:\t9291\t21\n";
        assert_eq!(status_field(status, "VmHWM"), Some("2048 kB"));
        assert_eq!(status_field(status, "NSpid"), Some("9291\t21"));
        assert_eq!(status_field(status, "VmRSS"), None);
    }

    #[test]
    fn a_process_that_is_not_there_costs_nothing_known() {
        assert_eq!((cpu_seconds(u32::MAX), peak_memory(u32::MAX)), (None, None));
        assert_eq!(broker_process("nobody@nowhere", "no number"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_costs_something() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).is_some() && peak_memory(pid).is_some_and(|bytes| bytes > 1 << 20));
    }
}
