//! What benchmarks say in one voice: rows of a table, points of a plot, words of the command line.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

/// One row of the table in docs/performance.md, which `table.rs` finds in the output.
pub struct Row<'a> {
    /// What was measured.
    pub what: &'a str,
    /// Memory for coins and database.
    pub cache: &'a str,
    /// When what is done was on disk.
    pub flush: &'a str,
    /// The figure.
    pub measured: String,
    /// The machine's own limit in the same run, and the share of it.
    pub limit: String,
}

/// What stands before a row and before a point of the plot.
pub const ROW: &str = "@row ";
pub const POINT: &str = "@point ";
/// Between fields.
pub const FIELD: char = '|';

impl Row<'_> {
    /// Prints it, with the cores that this process may use and the command that repeats it.
    pub fn print(&self) {
        let cores = rayon::current_num_threads();
        let name = std::env::current_exe().ok().and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
        let name = name.unwrap_or_default();
        let name = name.split('-').next().unwrap_or_default();
        let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
        let all = std::fs::read_dir("/sys/devices/system/cpu").map_or(cores, |entries| {
            let named = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
            named.filter(|name| name.strip_prefix("cpu").is_some_and(|rest| rest.parse::<u32>().is_ok())).count()
        });
        let pinned =
            if cores < all { format!("taskset -c 0-{} ", cores - 1).replace("0-0", "0") } else { String::new() };
        let arguments = if arguments.is_empty() { String::new() } else { format!(" -- {}", arguments.join(" ")) };
        let command = format!("{pinned}cargo bench --bench {name}{arguments}");
        let fields = [self.what, &cores.to_string(), self.cache, self.flush, &self.measured, &self.limit, &command];
        println!("{ROW}{}", fields.join(&FIELD.to_string()));
    }
}

/// A point of the plot: what the machine did at a size of the state.
pub fn point(series: &str, state: f64, rate: f64) {
    println!("{POINT}{series}{FIELD}{state}{FIELD}{rate}");
}

/// What may be given on the command line: a number, and words that choose parts; without any, all are wanted.
pub struct Wish {
    number: Option<usize>,
    words: Vec<String>,
}

impl Wish {
    /// Reads it. Cargo's own words choose nothing.
    pub fn read() -> Self {
        let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
        let number = words.iter().find_map(|word| word.parse().ok());
        Self { number, words: words.into_iter().filter(|word| word.parse::<usize>().is_err()).collect() }
    }

    /// The number, or what is usual.
    pub fn number(&self, usual: usize) -> usize {
        self.number.unwrap_or(usual)
    }

    /// Whether a word was given.
    pub fn chosen(&self, word: &str) -> bool {
        self.words.iter().any(|given| given == word)
    }

    /// Whether a part is wanted.
    pub fn wants(&self, part: &str) -> bool {
        self.words.is_empty() || self.chosen(part)
    }
}
