//! Benchmarks: bare broker, `HAProxy` in TCP mode and Oncegate side by side in one run.

mod client;
mod frames;
mod load;
mod message;
mod null_broker;

fn main() -> anyhow::Result<()> {
    let a: Vec<String> = std::env::args().collect();
    if a[1] == "null-broker" { return null_broker::serve(a[2].parse()?); }
    let plan = load::publish::Plan { address: a[2].parse()?, task: "bench.plain", connections: 4, window: 1024, confirms: if a[1] == "c" { load::publish::Confirms::On } else { load::publish::Confirms::Off }, keys: load::publish::Keys::Unique };
    if a[1] == "d" {
        let mut c = load::consume::Consumers::connect(plan.address, "bench.plain", 4, 256)?;
        let t = c.run(load::Until::Elapsed(std::time::Duration::from_secs(2)))?;
        println!("{t:?} {}", t.rate());
        return Ok(());
    }
    let mut p = load::publish::Publisher::connect(&plan)?;
    for _ in 0..3 {
    let t = p.run(load::Until::Elapsed(std::time::Duration::from_secs(1)))?;
    println!("{t:?} {}", t.rate());
    }
    Ok(())
}
