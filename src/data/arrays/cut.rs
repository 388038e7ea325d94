//! Arrays with the samples along the first axis, cut into the inputs of single runs.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use planish_ir::{Dim, Dims, Tensor};

use super::convert::convert;
use crate::data::{Options, Samples, Tensors, inputs::Input};

/// An array and how it is cut.
struct Column<'a> {
    input: &'a Input,
    array: Tensor,
    cut: Cut,
}

#[derive(Clone, Copy, PartialEq)]
enum Cut {
    /// A run takes so many entries of the first axis.
    Rows(u64),
    /// A run takes one entry, and the first axis goes away.
    Entry,
    /// Every run takes all of it.
    Same,
}

/// Cuts the arrays. All of them must hold the same number of samples.
pub(super) fn cut(arrays: Vec<(&Input, Tensor)>, options: &Options, mut notes: Vec<String>) -> Result<Samples> {
    let open = open_batch(arrays.iter().map(|(i, _)| *i), options, &mut notes)?;
    let mut columns = Vec::new();
    for (input, array) in arrays {
        let cut = how(input, &array, open)?;
        columns.push(Column { input, array: convert(&array, input, &mut notes)?, cut });
    }
    let held = rows(&columns)?;
    let used = options.samples.map_or(held, |limit| limit.min(held));
    if used < held {
        notes.push(format!("samples: {used} of the {held} that there are"));
    } else if let Some(limit) = options.samples.filter(|&l| l > held) {
        notes.push(format!("samples: {limit} were asked for, but there are only {held}"));
    }
    let mut samples = Samples { notes, ..Samples::default() };
    let per_run = columns.iter().find_map(|c| if let Cut::Rows(n) = c.cut { Some(n) } else { None }).unwrap_or(1);
    let fixed = columns.iter().any(|c| matches!(c.cut, Cut::Rows(_)) && first_dim(c.input).is_some());
    let mut start = 0;
    while start < used {
        let end = start.saturating_add(per_run).min(used);
        if fixed && end - start < per_run {
            samples.notes.push(format!(
                "the last {} samples are not used, because the model takes exactly {per_run} at a time",
                end - start
            ));
            break;
        }
        let mut batch = Tensors::new();
        let mut sizes = Sizes::new(options);
        for c in &columns {
            let part = c.part(start, end, start / per_run.max(1))?;
            sizes.check(c.input, part.dims())?;
            batch.insert(c.input.name.clone(), part);
        }
        samples.push(batch, end - start);
        start = end;
    }
    ensure!(samples.runs() > 0, "there are {held} samples, too few for a single run of {per_run}");
    Ok(samples)
}

/// Samples per run for inputs that leave it open: what other inputs fix, or what the user wants, or 1.
pub(in crate::data) fn open_batch<'a>(
    inputs: impl Iterator<Item = &'a Input>,
    options: &Options,
    notes: &mut Vec<String>,
) -> Result<u64> {
    let fixed = inputs.filter_map(first_dim).next();
    match (fixed, options.batch) {
        (_, Some(0)) => bail!("a batch of 0 samples makes no run"),
        (Some(n), Some(asked)) if n != asked => {
            notes.push(format!("a batch of {asked} was asked for, but the model takes exactly {n}"));
            Ok(n)
        }
        (Some(n), _) => Ok(n.max(1)),
        (None, asked) => Ok(asked.unwrap_or(1)),
    }
}

/// The first dim of an input if the model fixes it.
fn first_dim(input: &Input) -> Option<u64> {
    input.shape.as_ref()?.first()?.known()
}

fn how(input: &Input, array: &Tensor, open: u64) -> Result<Cut> {
    let Some(shape) = &input.shape else {
        return Ok(if array.rank() == 0 { Cut::Same } else { Cut::Rows(open) });
    };
    Ok(if array.rank() == shape.len() {
        match shape.first() {
            None => Cut::Same,
            Some(dim) => Cut::Rows(dim.known().unwrap_or(open).max(1)),
        }
    } else if array.rank() == shape.len() + 1 {
        Cut::Entry
    } else {
        bail!(
            "the array for {:?} has the shape {:?}, which is neither the model's {} with the samples along the first \
             axis, \
             nor one such input per entry",
            input.name,
            array.dims(),
            show(shape)
        )
    })
}

/// How many samples the arrays hold: rows of those that are cut by rows, or else runs.
fn rows(columns: &[Column<'_>]) -> Result<u64> {
    let runs_and_rows = |c: &Column<'_>| {
        let n = c.array.dims().first().copied().unwrap_or(0);
        match c.cut {
            Cut::Rows(size) => Some((n.div_ceil(size), n)),
            Cut::Entry => Some((n, n)),
            Cut::Same => None,
        }
    };
    let found: Vec<(&Column<'_>, (u64, u64))> = columns.iter().filter_map(|c| Some((c, runs_and_rows(c)?))).collect();
    let Some(&(first, (runs, _))) = found.first() else { return Ok(1) };
    if let Some((other, (n, _))) = found.iter().find(|(_, (n, _))| *n != runs) {
        bail!(
            "the array for {:?} makes {runs} runs, but the one for {:?} makes {n}; all must hold the same samples",
            first.input.name,
            other.input.name
        );
    }
    let by_rows = found.iter().find(|(c, _)| matches!(c.cut, Cut::Rows(_)));
    Ok(by_rows.map_or(runs, |(_, (_, rows))| *rows))
}

impl Column<'_> {
    /// What run number `run` takes, which covers the samples `start..end`.
    fn part(&self, start: u64, end: u64, run: u64) -> Result<Tensor> {
        match self.cut {
            Cut::Same => Ok(self.array.clone()),
            Cut::Entry => {
                let entry = slice(&self.array, run, run + 1)?;
                let dims = Dims::from_slice(entry.dims().get(1..).unwrap_or_default());
                Ok(entry.with_dims(dims)?)
            }
            // Inputs that take another number of rows per run than the rest follow by run.
            Cut::Rows(size) if end - start == size => slice(&self.array, run * size, (run + 1) * size),
            Cut::Rows(size) => slice(&self.array, run * size, (run * size).saturating_add(end - start)),
        }
    }
}

/// Entries `from..to` of the first axis, sharing the bytes; fewer if there are not as many.
fn slice(t: &Tensor, from: u64, to: u64) -> Result<Tensor> {
    let mut dims = Dims::from_slice(t.dims());
    let rows = dims.first_mut().context("a scalar cannot be cut")?;
    let to = to.min(*rows);
    let row = t.byte_len().checked_div(*rows).unwrap_or(0);
    let bytes = t.raw().context("strings cannot be cut")?;
    let range = usize::try_from(from * row)?..usize::try_from(to * row)?;
    *rows = to.saturating_sub(from);
    Ok(Tensor::from_raw(t.dtype(), dims, bytes.slice(range))?)
}

/// The sizes that one run gives to the model's named dims.
pub(in crate::data) struct Sizes(BTreeMap<String, u64>);

impl Sizes {
    pub(in crate::data) fn new(options: &Options) -> Sizes {
        Sizes(options.dims.clone())
    }

    /// Fails if a shape does not fit an input, also with regard to the inputs checked before.
    pub(in crate::data) fn check(&mut self, input: &Input, dims: &[u64]) -> Result<()> {
        let Some(shape) = &input.shape else { return Ok(()) };
        ensure!(
            shape.len() == dims.len(),
            "the input {:?} is {}, but its samples have the shape {dims:?}",
            input.name,
            show(shape)
        );
        for (axis, (dim, &size)) in shape.iter().zip(dims).enumerate() {
            // A single name is bound by its first use; sums and products of names follow.
            let key = dim.to_string();
            if matches!(dim, Dim::Symbolic(_)) && dim.names().eq([key.as_str()]) {
                self.0.entry(key).or_insert(size);
            }
            if let Some(wanted) = dim.bind(&self.0).known()
                && wanted != size
            {
                bail!("axis {axis} of the samples for {:?} has {size} entries, but {dim} is {wanted}", input.name);
            }
        }
        Ok(())
    }
}

fn show(shape: &[Dim]) -> String {
    let dims: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("[{}]", dims.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use planish_ir::DType;

    fn input(name: &str, shape: Vec<Dim>) -> Input {
        Input { name: name.into(), dtype: DType::I64, shape: Some(shape), optional: false }
    }

    fn counting(dims: &[u64]) -> Tensor {
        let n: u64 = dims.iter().product();
        Tensor::from_i64(dims, &(0..n as i64).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_fixed_batch_decides_and_leftovers_are_told() {
        let x = input("x", vec![Dim::Known(2), Dim::symbol("n")]);
        let s = input("s", vec![Dim::Known(3)]);
        let samples =
            cut(vec![(&x, counting(&[5, 2])), (&s, counting(&[3, 3]))], &Options::default(), Vec::new()).unwrap();
        assert_eq!((samples.runs(), samples.count()), (2, 4));
        assert_eq!(samples.all().unwrap()[1]["s"].to_i64().unwrap(), [3, 4, 5]);
        assert!(samples.notes[0].contains("last 1 samples are not used"));
    }

    #[test]
    fn arrays_that_do_not_fit_are_refused() {
        let x = input("x", vec![Dim::symbol("b"), Dim::symbol("n")]);
        let y = input("y", vec![Dim::symbol("b"), Dim::symbol("n")]);
        let run = |a: &[u64], b: &[u64]| {
            cut(vec![(&x, counting(a)), (&y, counting(b))], &Options::default(), Vec::new()).unwrap_err().to_string()
        };
        assert!(run(&[2, 3], &[3, 3]).contains("makes 2 runs"));
        assert!(run(&[2, 3], &[2, 4]).contains("has 4 entries, but n is 3"));
        assert!(run(&[2], &[2, 4]).contains("neither the model's [b, n]"));
    }

    #[test]
    fn the_limit_is_kept_and_told() {
        let x = input("x", vec![Dim::Unknown, Dim::Known(1)]);
        let options = Options { samples: Some(3), batch: Some(2), ..Options::default() };
        let samples = cut(vec![(&x, counting(&[9, 1]))], &options, Vec::new()).unwrap();
        assert_eq!(samples.all().unwrap().iter().map(|b| b["x"].dims()[0]).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(samples.notes, ["samples: 3 of the 9 that there are"]);
    }
}
