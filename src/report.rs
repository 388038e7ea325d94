//! What a compilation did, as tables for people and as JSON for machines.

use std::path::PathBuf;

use comfy_table::{CellAlignment, Table, presets};
use planish_ir::Numerics;
use planish_passes::{Layer, Outcome, PassReport, Size};
use serde::Serialize;

use crate::{
    blame::{self, Suspect},
    equivalence::Verdict,
    explain::{self, Explanation},
};

/// Everything that is reported. Contains no times, so that equal runs give equal reports.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of planish.
    pub planish: String,
    /// The model that was compiled.
    pub input: PathBuf,
    /// BLAKE3 of its files.
    pub input_blake3: Vec<String>,
    /// The result; absent if it was not written.
    pub output: Option<PathBuf>,
    /// Bytes of the files of the input and of the result.
    pub file_bytes: (u64, Option<u64>),
    /// Before and after.
    pub size: (SizeFigures, SizeFigures),
    /// One entry per pass.
    pub passes: Vec<PassFigures>,
    /// The comparison with the original; absent if verification is off.
    pub verification: Option<Verdict>,
    /// Why nothing could be verified.
    pub not_verified: Option<String>,
    /// After a failed comparison: the layers that add most error.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blame: Vec<Suspect>,
    /// What happened to the nodes that `--explain` asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explained: Option<Vec<Explanation>>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Figures of one pass.
#[derive(Debug, Serialize)]
pub struct PassFigures {
    /// Name of the pass.
    pub pass: &'static str,
    /// Patches that it applied.
    pub patches: u64,
    /// Nodes that it looked at and left alone.
    pub refusals: u64,
    /// Worst class of what it did.
    pub numerics: &'static str,
    /// Before.
    pub before: SizeFigures,
    /// After.
    pub after: SizeFigures,
    /// Limits that took effect, figures that the pass measured.
    pub notes: Vec<String>,
    /// What became of nodes that could compute with fewer bits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
}

/// The size of a model.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SizeFigures {
    /// Nodes without `Constant`.
    pub nodes: u64,
    /// Elements of weights.
    pub parameters: u64,
    /// Bytes of constants.
    pub weight_bytes: u64,
    /// Multiply-accumulates, as far as they are known.
    pub macs: u64,
    /// Nodes whose multiply-accumulates are not known.
    pub unknown_macs: u64,
}

impl From<Size> for SizeFigures {
    fn from(s: Size) -> SizeFigures {
        SizeFigures {
            nodes: s.nodes,
            parameters: s.parameters,
            weight_bytes: s.bytes,
            macs: s.macs,
            unknown_macs: s.unknown_macs,
        }
    }
}

impl From<&PassReport> for PassFigures {
    fn from(p: &PassReport) -> PassFigures {
        PassFigures {
            pass: p.name,
            patches: p.patches,
            refusals: p.refusals,
            numerics: numerics(p.numerics),
            before: p.before.into(),
            after: p.after.into(),
            notes: p.notes.clone(),
            layers: p.layers.clone(),
        }
    }
}

/// The name of a class.
pub const fn numerics(n: Numerics) -> &'static str {
    match n {
        Numerics::Exact => "exact",
        Numerics::Reassociated => "reassociated",
        Numerics::Lossy => "lossy",
    }
}

/// A table whose columns, but for the first, are numbers.
pub fn table(header: &[&str]) -> Table {
    let mut t = Table::new();
    t.load_style(presets::NOTHING).set_header(header);
    for column in t.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    t
}

/// `1234567` as `1 234 567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// Bytes with three digits, in powers of 1000.
pub fn bytes(n: u64) -> String {
    scaled(n, &["B", "kB", "MB", "GB", "TB"])
}

/// A count with three digits, in powers of 1000.
pub fn count(n: u64) -> String {
    scaled(n, &["", "k", "M", "G", "T"]).trim_end().to_owned()
}

fn scaled(n: u64, units: &[&str]) -> String {
    let mut x = n as f64;
    let mut unit = 0;
    while x >= 999.5 && unit + 1 < units.len() {
        x /= 1000.0;
        unit += 1;
    }
    match (unit, x) {
        (0, _) => format!("{n} {}", units[0]),
        (_, x) if x < 9.995 => format!("{x:.2} {}", units[unit]),
        (_, x) if x < 99.95 => format!("{x:.1} {}", units[unit]),
        _ => format!("{x:.0} {}", units[unit]),
    }
}

/// MACs, with a sign that some nodes are missing from the count.
pub fn macs(known: u64, unknown: u64) -> String {
    match unknown {
        0 => count(known),
        _ => format!("{}+?", count(known)),
    }
}

impl Report {
    /// The passes and the totals of a run.
    pub fn passes(outcome: &Outcome) -> Vec<PassFigures> {
        outcome.passes.iter().map(Into::into).collect()
    }

    /// True if the result is not as close to the original as asked, or could not be verified.
    pub fn failed(&self) -> bool {
        self.not_verified.is_some() || self.verification.as_ref().is_some_and(|v| !v.failures.is_empty())
    }

    /// Tables for a terminal.
    pub fn render(&self) -> String {
        let mut t = table(&["pass", "patches", "nodes", "parameters", "weights", "MACs", "numerics"]);
        let row = |s: &SizeFigures| {
            [s.nodes.to_string(), count(s.parameters), bytes(s.weight_bytes), macs(s.macs, s.unknown_macs)]
        };
        let line = |name: &str, patches: String, s: &SizeFigures, class: &str| {
            let [nodes, parameters, weights, macs] = row(s);
            vec![name.to_owned(), patches, nodes, parameters, weights, macs, class.to_owned()]
        };
        t.add_row(line("(input)", String::new(), &self.size.0, ""));
        for p in &self.passes {
            t.add_row(line(p.pass, p.patches.to_string(), &p.after, if p.patches > 0 { p.numerics } else { "" }));
        }
        let mut text = format!("{t}\n");
        if self.size.0.unknown_macs > 0 {
            text += "MACs marked with ? lack nodes whose sizes cannot be inferred\n";
        }
        for (pass, note) in self.passes.iter().flat_map(|p| p.notes.iter().map(move |n| (p.pass, n))) {
            text += &format!("{pass}: {note}\n");
        }
        for note in &self.notes {
            text += &format!("note: {note}\n");
        }
        self.passes.iter().filter_map(|p| sensitivity(&p.layers)).for_each(|t| text += &format!("\n{t}\n"));
        text += "\n";
        match (&self.verification, &self.not_verified) {
            (Some(v), _) => text += &v.render(),
            (None, Some(why)) => text += &format!("NOT VERIFIED: {why}\n"),
            (None, None) => text += "not verified: verification is off\n",
        }
        if !self.blame.is_empty() {
            text += &format!("layers that add most error, on the first sample:\n{}", blame::render(&self.blame));
        }
        if let Some(explained) = &self.explained {
            text += &format!("\n{}", explain::render(explained));
        }
        let (before, after) = self.file_bytes;
        if let (Some(output), Some(after)) = (&self.output, after) {
            let share = after as f64 / before.max(1) as f64 * 100.0;
            text += &format!("{}: {} -> {} ({share:.1} %)\n", output.display(), bytes(before), bytes(after));
        }
        text
    }
}

/// What was measured of layers one by one, and decided; `None` if nothing was.
fn sensitivity(layers: &[Layer]) -> Option<Table> {
    let mut t = table(&["layer", "operator", "computes in", "MACs %", "alone, SQNR dB", ""]);
    if let Some(column) = t.column_mut(5) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    for layer in layers.iter().filter(|l| l.output_sqnr_db.is_some()) {
        t.add_row(vec![
            layer.node.clone(),
            layer.op.clone(),
            layer.precision.to_owned(),
            format!("{:.1}", 100.0 * layer.share),
            layer.output_sqnr_db.map_or_else(String::new, |db| format!("{db:.1}")),
            layer.reason.clone().unwrap_or_default(),
        ]);
    }
    (!t.is_empty()).then_some(t)
}

impl Verdict {
    /// A table and the verdict, for a terminal.
    pub fn render(&self) -> String {
        let mut header = vec!["output", "max abs", "max rel", "cosine", "SQNR dB", "top-1"];
        let is_squashed = self.outputs.iter().any(|o| o.sqnr_before_db.is_some());
        if is_squashed {
            header.push("SQNR dB before the last function");
        }
        let mut t = table(&header);
        for o in &self.outputs {
            let exact = o.max_abs == 0.0 && o.identical;
            let mut row = vec![
                o.output.clone(),
                if exact { "0".into() } else { format!("{:.3e}", o.max_abs) },
                if exact { "0".into() } else { format!("{:.3e}", o.max_relative) },
                format!("{:.6}", o.cosine),
                o.sqnr_db.map_or_else(|| "inf".into(), |x| format!("{x:.1}")),
                o.top1_agreement.map_or_else(|| "-".into(), |x| format!("{x:.4}")),
            ];
            if is_squashed {
                row.push(o.sqnr_before_db.map_or_else(|| "-".into(), |x| format!("{x:.1}")));
            }
            t.add_row(row);
        }
        let plural = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let on = format!("{} in {}", plural(self.samples, "sample"), plural(self.runs as u64, "run"));
        let verdict = match self.failures.is_empty() {
            true => format!("verified by {} on {on}: {}\n", self.engine, self.asked),
            false => {
                let list: String = self.failures.iter().map(|f| format!("  {f}\n")).collect();
                format!("FAILED by {} on {on}; asked: {}\n{list}", self.engine, self.asked)
            }
        };
        format!("{t}\n{verdict}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(thousands(1234567), "1 234 567");
        assert_eq!(
            [bytes(999), bytes(1000), bytes(90_321_879), bytes(3_400_000_000)],
            ["999 B", "1.00 kB", "90.3 MB", "3.40 GB"]
        );
        assert_eq!([count(5), count(999_600), count(22_700_000)], ["5", "1.00 M", "22.7 M"]);
    }
}
