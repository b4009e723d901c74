//! The `process_*` metrics, read from `/proc` when they are scraped (see `proc(5)`).

use std::fs;

use prometheus::{Counter, Gauge, IntGauge, Registry};

/// `USER_HZ`, the unit of times in `/proc/PID/stat`: 100 on every architecture that Rust builds for.
const TICKS_PER_SECOND: f64 = 100.0;

/// The metrics of this process, under the names that every Prometheus client library gives them.
pub(super) struct ProcessMetrics {
    cpu_seconds: Counter,
    resident_bytes: IntGauge,
    virtual_bytes: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    start_time_seconds: Gauge,
}

impl ProcessMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<ProcessMetrics> {
        let metrics = ProcessMetrics {
            cpu_seconds: Counter::new("process_cpu_seconds_total", "User and system CPU time spent, in seconds.")?,
            resident_bytes: IntGauge::new("process_resident_memory_bytes", "Resident memory, in bytes.")?,
            virtual_bytes: IntGauge::new("process_virtual_memory_bytes", "Virtual memory, in bytes.")?,
            open_fds: IntGauge::new("process_open_fds", "Open file descriptors.")?,
            max_fds: IntGauge::new("process_max_fds", "Most file descriptors that may be open.")?,
            start_time_seconds: Gauge::new(
                "process_start_time_seconds",
                "Start of the process, in seconds since the Unix epoch.",
            )?,
        };
        registry.register(Box::new(metrics.cpu_seconds.clone()))?;
        registry.register(Box::new(metrics.resident_bytes.clone()))?;
        registry.register(Box::new(metrics.virtual_bytes.clone()))?;
        registry.register(Box::new(metrics.open_fds.clone()))?;
        registry.register(Box::new(metrics.max_fds.clone()))?;
        registry.register(Box::new(metrics.start_time_seconds.clone()))?;
        Ok(metrics)
    }

    /// Reads `/proc` anew. What cannot be read keeps its last value.
    pub(super) fn refresh(&self) {
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
            let spent = stat.cpu_ticks as f64 / TICKS_PER_SECOND;
            self.cpu_seconds.inc_by((spent - self.cpu_seconds.get()).max(0.0));
            self.virtual_bytes.set(stat.virtual_bytes as i64);
            if let Some(boot) = fs::read_to_string("/proc/stat").ok().as_deref().and_then(boot_time) {
                self.start_time_seconds
                    .set(boot as f64 + stat.start_ticks as f64 / TICKS_PER_SECOND);
            }
        }
        if let Some(kib) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_kib) {
            self.resident_bytes.set(kib as i64 * 1024);
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // The directory that is being read is itself an open descriptor.
            self.open_fds.set(entries.count() as i64 - 1);
        }
        if let Some(limit) = fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(open_files_limit) {
            self.max_fds.set(limit as i64);
        }
    }
}

/// What is used of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
}

impl Stat {
    /// The second field is the program's name in brackets and may hold spaces and brackets itself, so fields are counted from the last
    /// closing one: the state is then the first.
    fn parse(line: &str) -> Option<Stat> {
        let (_, rest) = line.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let user: u64 = fields.nth(11)?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        let start_ticks = fields.nth(6)?.parse().ok()?;
        let virtual_bytes = fields.next()?.parse().ok()?;
        Some(Stat {
            cpu_ticks: user + system,
            start_ticks,
            virtual_bytes,
        })
    }
}

fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn resident_kib(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.trim().strip_suffix("kB")?.trim_end().parse().ok()
}

/// The soft limit; `None` where it is `unlimited`.
fn open_files_limit(limits: &str) -> Option<u64> {
    let values = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    values.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_name_may_hold_brackets_and_spaces() {
        let line = "17 (a) b (c)) S 1 17 17 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 4242 123456789 777 18446744073709551615 1 1";
        assert_eq!(
            Stat::parse(line),
            Some(Stat {
                cpu_ticks: 300,
                start_ticks: 4242,
                virtual_bytes: 123_456_789
            })
        );
        assert_eq!(Stat::parse("17 (x) S 1"), None);
    }

    #[test]
    fn values_are_found_by_name() {
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\nprocesses 3\n"), Some(1_700_000_000));
        assert_eq!(resident_kib("VmPeak:\t 9 kB\nVmRSS:\t    5120 kB\n"), Some(5120));
        let limits = "Limit  Soft  Hard  Units\nMax open files            1024                 524288               files     \n";
        assert_eq!(open_files_limit(limits), Some(1024));
        assert_eq!(
            open_files_limit("Max open files            unlimited            unlimited            files\n"),
            None
        );
    }
}
