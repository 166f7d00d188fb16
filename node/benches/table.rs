//! All benchmarks in one run, as one table and one plot: docs/performance.md between two marks, and docs/performance.svg.
//!
//! `cargo bench --bench table [-- PER_MILLE] [dry]`. Runs every other benchmark in a process of its own, on one core and on all
//! of them where that matters, and collects the rows that they print. PER_MILLE scales all sizes: 1,000, the usual ones, takes
//! half an hour on two cores. `dry` prints and writes nothing.

#[path = "common/row.rs"]
mod row;

use row::{FIELD, POINT, ROW, Wish};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Where the table stands.
const PAGE: &str = "docs/performance.md";
const PLOT: &str = "docs/performance.svg";
const BEGIN: &str = "<!-- table: begin (made by `make bench`) -->";
const END: &str = "<!-- table: end -->";

/// A benchmark's run: its name, what it is told, the number that it scales by, and whether it is repeated on one core.
struct Run {
    bench: &'static str,
    number: usize,
    parts: &'static [&'static str],
    on_one_core: bool,
}

const RUNS: &[Run] = &[
    Run { bench: "connect", number: 300_000, parts: &["connect", "indexed", "verify", "known"], on_one_core: false },
    Run { bench: "connect", number: 150_000, parts: &["connect", "verify"], on_one_core: true },
    Run { bench: "sync", number: 200_000, parts: &[], on_one_core: false },
    Run { bench: "sync", number: 100_000, parts: &[], on_one_core: true },
    Run { bench: "state", number: 100_000, parts: &["state"], on_one_core: false },
    Run { bench: "state", number: 60_000, parts: &["state"], on_one_core: true },
    Run { bench: "state", number: 200_000, parts: &["cold", "five", "reorg", "disk", "bulk"], on_one_core: false },
    Run { bench: "mempool", number: 50_000, parts: &[], on_one_core: false },
    Run { bench: "start", number: 100_000, parts: &[], on_one_core: false },
];

fn main() {
    let wish = Wish::read();
    let scale = wish.number(1_000);
    let start = Instant::now();
    let (mut rows, mut points) = (Vec::new(), Vec::new());
    for run in RUNS {
        let number = (run.number * scale / 1_000).max(1).to_string();
        let mut words: Vec<&str> = match run.on_one_core {
            true => vec!["taskset", "-c", "0", "cargo"],
            false => vec!["cargo"],
        };
        words.extend(["bench", "--quiet", "--locked", "--workspace", "--bench", run.bench, "--", &number]);
        words.extend(run.parts);
        println!("\n== {:.0} s: {}", start.elapsed().as_secs_f64(), words.join(" "));
        let output = Command::new(words[0]).args(&words[1..]).stderr(Stdio::inherit()).output().expect("it can be run");
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{}", text.trim_end());
        assert!(output.status.success(), "{} failed", run.bench);
        let fields = |line: &str| -> Vec<String> { line.split(FIELD).map(str::to_owned).collect() };
        rows.extend(text.lines().filter_map(|line| line.strip_prefix(ROW)).map(fields));
        points.extend(text.lines().filter_map(|line| line.strip_prefix(POINT)).map(fields));
    }
    let table = table(&rows, start.elapsed().as_secs());
    let plot = plot(&points);
    println!("\n{table}");
    if wish.chosen("dry") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("node/ lies in the workspace");
    let page = std::fs::read_to_string(root.join(PAGE)).expect("the page can be read");
    let (before, rest) = page.split_once(BEGIN).expect("the page has the mark where the table begins");
    let (_, after) = rest.split_once(END).expect("the page has the mark where the table ends");
    std::fs::write(root.join(PAGE), format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
        .expect("the page can be written");
    std::fs::write(root.join(PLOT), plot).expect("the plot can be written");
    println!("{PAGE} and {PLOT} are written");
}

/// What the machine is, and a line for each row.
fn table(rows: &[Vec<String>], seconds: u64) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| -> String {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or_else(|| "unknown".to_owned(), |rest| rest.trim_start_matches([' ', '\t', ':']).trim().to_owned())
    };
    let (processor, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut table = format!(
        "Measured on {cores} cores of {}, {} of memory, Linux {}, in {} minutes.\n\n\
         | what | cores | cache (coins + database) | flush | measured | the machine's limit in the same run | command |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        field(&processor, "model name"),
        field(&memory, "MemTotal"),
        // The builder's own suffix says nothing to others.
        read("/proc/sys/kernel/osrelease").trim().split('.').take(2).collect::<Vec<_>>().join("."),
        seconds.div_ceil(60),
    );
    for row in rows {
        let mut cells: Vec<String> =
            row.iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { cell.clone() }).collect();
        if let Some(command) = cells.last_mut() {
            *command = format!("`{command}`");
        }
        let _ = writeln!(table, "| {} |", cells.join(" | "));
    }
    table + "\n![Transactions verified a second, by the size of the state](performance.svg)\n"
}

/// Transactions a second over the size of the state, a line for each series.
fn plot(points: &[Vec<String>]) -> String {
    const WIDTH: f64 = 720.0;
    const HEIGHT: f64 = 400.0;
    const LEFT: f64 = 80.0;
    const RIGHT: f64 = 200.0;
    const TOP: f64 = 40.0;
    const BOTTOM: f64 = 60.0;
    const COLOURS: [&str; 6] = ["#0b6e99", "#9bc4d6", "#b8520a", "#e8b68f", "#3a7d44", "#a9cfae"];
    let mut series: Vec<(&str, Vec<(f64, f64)>)> = Vec::new();
    for point in points {
        let [name, state, rate] = point.as_slice() else { continue };
        let (Ok(state), Ok(rate)) = (state.parse::<f64>(), rate.parse::<f64>()) else { continue };
        match series.iter_mut().find(|(known, _)| known == name) {
            Some((_, line)) => line.push((state, rate)),
            None => series.push((name, vec![(state, rate)])),
        }
    }
    let all = || series.iter().flat_map(|(_, line)| line);
    let step = 50_000.0;
    let most = (all().map(|(_, rate)| *rate).fold(1.0, f64::max) / step).ceil() * step;
    let widest = all().map(|(state, _)| state.log2()).fold(1.0, f64::max);
    // Doublings of the state are equal steps.
    let x = |state: f64| LEFT + (WIDTH - LEFT - RIGHT) * state.log2() / widest;
    let y = |rate: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rate / most;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">Transactions verified a second, by the size of the state</text>\n"
    );
    let mut mark = 0.0;
    while mark <= most {
        let at = y(mark);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{mark}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
        mark += step;
    }
    let mut states: Vec<f64> = all().map(|(state, _)| *state).collect();
    states.sort_unstable_by(f64::total_cmp);
    states.dedup();
    for state in states {
        let (at, below) = (x(state), HEIGHT - BOTTOM + 20.0);
        let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{state} x</text>");
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">coins, in tables of the cache</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 14.0
    );
    for ((name, line), (colour, row)) in series.iter().zip(COLOURS.iter().zip(0u32..)) {
        let path: Vec<String> = line.iter().map(|(state, rate)| format!("{:.1} {:.1}", x(*state), y(*rate))).collect();
        let dashed = if name.starts_with("signatures") { " stroke-dasharray=\"5 4\"" } else { "" };
        let at = TOP + 20.0 * f64::from(row);
        let _ = writeln!(
            svg,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashed}/>\n\
             <path d=\"M{} {at}h24\" stroke=\"{colour}\" stroke-width=\"2\"{dashed}/><text x=\"{}\" y=\"{}\">{name}</text>",
            path.join("L"),
            WIDTH - RIGHT + 12.0,
            WIDTH - RIGHT + 42.0,
            at + 4.0
        );
        for (state, rate) in line {
            let _ = writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x(*state), y(*rate));
        }
    }
    svg + "</svg>\n"
}
