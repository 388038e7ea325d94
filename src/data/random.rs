//! Samples out of nothing, for models without data at hand. They exercise shapes and arithmetic; accuracy needs real
//! data.

use std::{borrow::Cow, collections::BTreeMap};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use planish_ir::{DType, Dim, Dims, Model, Tensor, product};

use super::{Make, Options, Samples, Tensors, arrays::fits, inputs::Input, ranges::index_range};

/// Samples drawn if the user does not say how many.
const SAMPLES: u64 = 16;
/// Sizes of the first axis, in turn, where it is open. It usually is the batch, and one sample per run would hide what goes
/// wrong between samples.
const BATCHES: [u64; 2] = [2, 3];
/// The most bytes that are drawn for an input. More is a slip, and would end the process instead of failing.
const MAX_BYTES: u64 = 4 << 30;
/// Sizes of any other open axis, in turn, the smallest first: those behind are for models that do not run with those before. Networks
/// that halve an image a few times take no others than such. If none of them does, they are tried again with axes between the first and
/// the last as large as the first: states of recurrent networks have the batch there.
const SIZES: [[u64; 2]; 4] = [[8, 16], [32, 64], [96, 160], [224, 256]];

/// Draws the samples. The same seed, input name and run draw the same numbers. Runs take turns in the sizes of open axes, so
/// that what holds for one size only is found out.
pub(super) fn draw(seed: u64, model: &Model, inputs: &[Input], options: &Options) -> Result<Samples> {
    let mut notes = Vec::new();
    // What the model brings itself is mostly weights, of which other ones are no model that anybody runs, unless it is asked for.
    let is_drawn = |i: &&Input| !i.optional || options.ranges.contains_key(&i.name);
    let inputs: Vec<Input> = inputs.iter().filter(is_drawn).cloned().collect();
    let inputs = &inputs[..];
    let Turns { turns, is_widest } = turns(inputs, options, &mut notes)?;
    let wanted = options.samples.unwrap_or(SAMPLES);
    ensure!(wanted > 0, "0 random samples were asked for");
    let mut ranges = Vec::new();
    for input in inputs {
        check_type(input)?;
        ranges.push(range(model, input, options, &mut notes)?);
    }
    let per_run = |shapes: &[Dims]| shapes.iter().filter_map(|s| s.first().copied()).next().unwrap_or(1).max(1);
    let least = turns.iter().map(|t| per_run(t)).min().unwrap_or(1);
    for shapes in &turns {
        for (input, shape) in inputs.iter().zip(shapes) {
            check_size(input, shape, wanted.div_ceil(least).div_ceil(turns.len() as u64))?;
        }
    }
    let (mut sizes, mut total) = (Vec::new(), 0u64);
    for (run, shapes) in turns.iter().cycle().enumerate() {
        if total >= wanted && run >= turns.len() {
            break;
        }
        sizes.push(per_run(shapes));
        total = total.saturating_add(per_run(shapes));
    }
    let turns_taken = turns.len();
    let drawn = Drawn { seed, inputs: inputs.to_vec(), ranges, turns };
    let wider = (!is_widest).then(|| (seed, Options { widened: options.widened + 1, ..options.clone() }));
    Ok(Samples { sizes, turns: turns_taken, notes, random: true, wider, ..Samples::made(drawn) })
}

/// What is drawn when it is needed.
#[derive(Debug)]
struct Drawn {
    seed: u64,
    inputs: Vec<Input>,
    /// Of the integers, one per input.
    ranges: Vec<(i64, i64)>,
    /// Of each turn, a shape for every input.
    turns: Vec<Vec<Dims>>,
}

impl Make for Drawn {
    fn shapes(&self, run: usize, _samples: u64) -> Result<Vec<Dims>> {
        let shapes = self.turns.get(run % self.turns.len().max(1)).context("there is no such run")?;
        let by_name: BTreeMap<&str, &Dims> = self.inputs.iter().map(|i| i.name.as_str()).zip(shapes).collect();
        Ok(by_name.into_values().cloned().collect())
    }

    fn make(&self, run: usize, _samples: u64) -> Result<Tensors> {
        let shapes = self.turns.get(run % self.turns.len().max(1)).context("there is no such run")?;
        let mut batch = Tensors::new();
        for ((input, shape), range) in self.inputs.iter().zip(shapes).zip(&self.ranges) {
            let source = Generator::new(self.seed, &input.name, run as u64);
            batch.insert(input.name.clone(), tensor(source, input, shape, *range)?);
        }
        Ok(batch)
    }
}

/// Fails on types that cannot be drawn.
fn check_type(input: &Input) -> Result<()> {
    let drawable = match input.dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 | DType::Bool => true,
        dtype => dtype.is_integer() && dtype.bits() >= 8,
    };
    ensure!(
        drawable,
        "there are no random {} samples for the input {:?}; give data from a file",
        input.dtype,
        input.name
    );
    Ok(())
}

/// Fails if all samples of one size for an input together would be larger than [`MAX_BYTES`].
fn check_size(input: &Input, dims: &Dims, runs: u64) -> Result<()> {
    let bytes = || product(dims)?.checked_mul(input.dtype.bits().div_ceil(8))?.checked_mul(runs);
    ensure!(
        bytes().is_some_and(|n| n <= MAX_BYTES),
        "the random samples for the input {:?} would be larger than {} GiB: {runs} runs of {} {dims:?}; \
         choose smaller sizes with --dim, or fewer samples",
        input.name,
        MAX_BYTES >> 30,
        input.dtype
    );
    Ok(())
}

/// A size for every axis of every input, for each turn.
struct Turns {
    turns: Vec<Vec<Dims>>,
    /// Larger sizes cannot be tried.
    is_widest: bool,
}

fn turns(inputs: &[Input], options: &Options, notes: &mut Vec<String>) -> Result<Turns> {
    let mut open = BTreeMap::new();
    let first = shapes(inputs, options, 0, &mut open)?;
    for (name, sizes) in &open {
        let list: Vec<String> = sizes.iter().map(u64::to_string).collect();
        let in_turn = if list.len() > 1 { " in turn" } else { "" };
        notes.push(format!(
            "the size of {name} is open and was taken as {}{in_turn}; set it with --dim {name}=N",
            list.join(" and ")
        ));
    }
    let count = open.values().map(|sizes| sizes.len()).max().unwrap_or(1);
    let others = (1..count).map(|turn| shapes(inputs, options, turn, &mut BTreeMap::new()));
    let turns = std::iter::once(Ok(first)).chain(others).collect::<Result<_>>()?;
    let here = sizes(options);
    let is_ours = |sizes: &Cow<'_, [u64]>| sizes.as_ref() == here.as_slice();
    // Axes without a name between the first and the last.
    let inner = |i: &Input| {
        (1..i.shape.as_ref().map_or(0, Vec::len).saturating_sub(1)).map(|a| format!("{}.{a}", i.name)).collect()
    };
    let has_inner = inputs.iter().flat_map(|i| -> Vec<String> { inner(i) }).any(|key| open.contains_key(&key));
    let levels = if has_inner { 2 * SIZES.len() } else { SIZES.len() };
    Ok(Turns { turns, is_widest: options.widened + 1 >= levels || !open.values().any(is_ours) })
}

/// Sizes of open axes.
fn sizes(options: &Options) -> &'static [u64; 2] {
    SIZES.get(options.widened % SIZES.len()).unwrap_or(&SIZES[0])
}

/// A size for every axis in one turn. What the user left open is entered into `open` with all its sizes.
fn shapes<'a>(
    inputs: &[Input],
    options: &'a Options,
    turn: usize,
    open: &mut BTreeMap<String, Cow<'a, [u64]>>,
) -> Result<Vec<Dims>> {
    let mut bound: BTreeMap<String, u64> = options.dims.clone();
    let mut shapes = Vec::new();
    for input in inputs {
        let Some(shape) = &input.shape else {
            bail!(
                "the model does not say how many axes its input {:?} has, so no sample can be drawn; \
                 give data from a file",
                input.name
            );
        };
        let mut dims = Dims::new();
        for (axis, dim) in shape.iter().enumerate() {
            let default: Cow<'a, [u64]> = match (axis, options.batch) {
                (0, Some(batch)) => Cow::Owned(vec![batch]),
                (0, None) => Cow::Borrowed(&BATCHES),
                _ if options.widened >= SIZES.len() && *dim == Dim::Unknown && axis + 1 < shape.len() => {
                    Cow::Borrowed(&BATCHES)
                }
                _ => Cow::Borrowed(sizes(options)),
            };
            let mut settle = |key: String| {
                *bound.entry(key).or_insert_with_key(|key| {
                    let choices =
                        options.sizes.get(key).map_or_else(|| default.clone(), |s| Cow::Borrowed(s.as_slice()));
                    let size = choices.iter().copied().cycle().nth(turn % choices.len().max(1)).unwrap_or(1);
                    open.insert(key.clone(), choices);
                    size
                })
            };
            let size = match dim {
                Dim::Known(n) => Some(*n),
                Dim::Unknown => Some(settle(format!("{}.{axis}", input.name))),
                Dim::Symbolic(_) => {
                    dim.names().map(str::to_owned).for_each(|name| {
                        settle(name);
                    });
                    dim.bind(&bound).known()
                }
            };
            let size = size.with_context(|| {
                format!("axis {axis} of the input {:?} has no size {dim} with the sizes given by --dim", input.name)
            })?;
            dims.push(size);
        }
        shapes.push(dims);
    }
    Ok(shapes)
}

/// Bounds of the numbers for an integer input, the upper one exclusive.
fn range(model: &Model, input: &Input, options: &Options, notes: &mut Vec<String>) -> Result<(i64, i64)> {
    if !input.dtype.is_integer() {
        return Ok((0, 2));
    }
    let (low, high) = match options.ranges.get(&input.name) {
        Some(&given) => given,
        None => {
            let range = index_range(model, &input.name).unwrap_or((0, 2));
            notes.push(format!(
                "integers for {:?} were drawn from {}..{}; set it with --range {}=LOW..HIGH",
                input.name, range.0, range.1, input.name
            ));
            range
        }
    };
    ensure!(low < high, "the range {low}..{high} for the input {:?} is empty", input.name);
    ensure!(
        fits(low, input.dtype) && fits(high - 1, input.dtype),
        "the range {low}..{high} for the input {:?} leaves its type, {}",
        input.name,
        input.dtype
    );
    Ok((low, high))
}

fn tensor(mut source: Generator, input: &Input, dims: &Dims, range: (i64, i64)) -> Result<Tensor> {
    let elements = usize::try_from(product(dims).context("its shape overflows")?)?;
    Ok(match input.dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => {
            let values: Vec<f64> = (0..elements).map(|_| source.normal()).collect();
            Tensor::from_f64_as(input.dtype, dims.clone(), &values)?
        }
        dtype if dtype == DType::Bool || (dtype.is_integer() && dtype.bits() >= 8) => {
            let width = (dtype.bits() / 8) as usize;
            let mut bytes = Vec::new();
            for _ in 0..elements {
                bytes.extend_from_slice(&source.between(range.0, range.1).to_le_bytes()[..width]);
            }
            Tensor::from_raw(dtype, dims.clone(), Bytes::from(bytes))?
        }
        other => bail!("there are no random {other} samples; give data from a file"),
    })
}

/// Random numbers that are the same on every machine: only integer arithmetic and exact float operations.
struct Generator(blake3::OutputReader);

impl Generator {
    fn new(seed: u64, input: &str, run: u64) -> Generator {
        let mut h = blake3::Hasher::new();
        h.update(&seed.to_le_bytes()).update(&run.to_le_bytes()).update(input.as_bytes());
        Generator(h.finalize_xof())
    }

    fn next(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Approximately standard normal: the sum of twelve uniform numbers (Irwin-Hall) has variance 1 and ends at ±6.
    /// Logarithms and cosines, which exact methods need, differ between platforms.
    fn normal(&mut self) -> f64 {
        let sum: f64 = (0..6)
            .map(|_| {
                let n = self.next();
                f64::from((n >> 32) as u32) + f64::from(n as u32)
            })
            .sum();
        sum / f64::from(u32::MAX) - 6.0
    }

    /// Uniform in `low..high`.
    fn between(&mut self, low: i64, high: i64) -> i64 {
        let width = i128::from(high) - i128::from(low);
        let offset = (i128::from(self.next()) * width) >> 64;
        i64::try_from(i128::from(low) + offset).unwrap_or(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, dtype: DType, shape: Vec<Dim>) -> Input {
        Input { name: name.into(), dtype, shape: Some(shape), optional: false }
    }

    #[test]
    fn open_sizes_are_bound_once_and_told() {
        let inputs = [
            input("x", DType::F32, vec![Dim::symbol("b"), Dim::symbol("n")]),
            input("y", DType::Bool, vec![Dim::symbol("b"), Dim::symbol("n").mul(&Dim::Known(2)), Dim::Unknown]),
        ];
        let options = Options { dims: [("n".to_owned(), 3)].into(), samples: Some(5), ..Options::default() };
        let samples = draw(1, &Model::default(), &inputs, &options).unwrap();
        assert_eq!(samples.sizes, [2, 3]);
        assert_eq!(samples.all().unwrap()[0]["x"].dims(), [2, 3]);
        assert_eq!(samples.all().unwrap()[0]["y"].dims(), [2, 6, 8]);
        assert_eq!(samples.all().unwrap()[1]["y"].dims(), [3, 6, 16]);
        assert_eq!(
            samples.notes,
            [
                "the size of b is open and was taken as 2 and 3 in turn; set it with --dim b=N",
                "the size of y.2 is open and was taken as 8 and 16 in turn; set it with --dim y.2=N"
            ]
        );
    }

    #[test]
    fn sizes_that_nobody_chose_can_be_larger() {
        let inputs = [input("x", DType::F32, vec![Dim::symbol("b"), Dim::Known(3), Dim::symbol("h"), Dim::Unknown])];
        let dims = [("h".to_owned(), 5)].into();
        let options = Options { dims, samples: Some(1), ..Options::default() };
        let mut widths = Vec::new();
        let mut samples = draw(1, &Model::default(), &inputs, &options).unwrap();
        loop {
            let shapes: Vec<Vec<u64>> = samples.all().unwrap().iter().map(|b| b["x"].dims().to_vec()).collect();
            assert_eq!([&shapes[0][..3], &shapes[1][..3]], [[2, 3, 5], [3, 3, 5]]);
            widths.push((shapes[0][3], shapes[1][3]));
            let Some((seed, options)) = samples.wider.take() else { break };
            samples = draw(seed, &Model::default(), &inputs, &options).unwrap();
        }
        assert_eq!(widths, [(8, 16), (32, 64), (96, 160), (224, 256)]);
        let all = Options { dims: [("h".to_owned(), 5), ("x.3".to_owned(), 5)].into(), ..options };
        assert!(draw(1, &Model::default(), &inputs, &all).unwrap().wider.is_none());
    }

    #[test]
    fn axes_in_the_middle_may_be_those_of_the_batch() {
        let inputs = [
            input("x", DType::F32, vec![Dim::Unknown, Dim::Unknown]),
            input("state", DType::F32, vec![Dim::Known(2), Dim::Unknown, Dim::Known(4)]),
        ];
        let mut options = Options { samples: Some(1), ..Options::default() };
        let mut seen = Vec::new();
        loop {
            let mut samples = draw(1, &Model::default(), &inputs, &options).unwrap();
            let runs = samples.all().unwrap();
            seen.push((runs[0]["x"].dims().to_vec(), runs[1]["state"].dims().to_vec()));
            let Some((_, wider)) = samples.wider.take() else { break };
            options = wider;
        }
        assert_eq!(seen.len(), 8);
        assert_eq!(seen[3], (vec![2, 224], vec![2, 256, 4]));
        assert_eq!(seen[4], (vec![2, 8], vec![2, 3, 4]));
        assert_eq!(seen[7], (vec![2, 224], vec![2, 3, 4]));
    }

    #[test]
    fn every_size_is_seen_however_few_samples_are_asked_for() {
        let inputs = [input("x", DType::F32, vec![Dim::Known(1), Dim::symbol("n"), Dim::symbol("m")])];
        let sizes = [("n".to_owned(), vec![4, 5, 6])].into();
        let options = Options { samples: Some(1), sizes, ..Options::default() };
        let samples = draw(1, &Model::default(), &inputs, &options).unwrap();
        let dims: Vec<Vec<u64>> = samples.all().unwrap().iter().map(|b| b["x"].dims().to_vec()).collect();
        assert_eq!(dims, [[1, 4, 8], [1, 5, 16], [1, 6, 8]]);
        assert_eq!(samples.first(1).len(), 3);
        let fixed = Options { dims: [("n".to_owned(), 2), ("m".to_owned(), 2)].into(), ..options };
        assert_eq!(draw(1, &Model::default(), &inputs, &fixed).unwrap().runs(), 1);
    }

    #[test]
    fn draws_are_reproducible_and_plausible() {
        let inputs = [input("x", DType::F64, vec![Dim::Known(4096)]), input("i", DType::I8, vec![Dim::Known(4096)])];
        let options = Options { samples: Some(1), ranges: [("i".to_owned(), (-3, 4))].into(), ..Options::default() };
        let first = draw(7, &Model::default(), &inputs, &options).unwrap();
        assert_eq!(first.all().unwrap(), draw(7, &Model::default(), &inputs, &options).unwrap().all().unwrap());
        assert_ne!(first.all().unwrap(), draw(8, &Model::default(), &inputs, &options).unwrap().all().unwrap());
        let x = first.all().unwrap()[0]["x"].to_f64().unwrap();
        let mean = x.iter().sum::<f64>() / 4096.0;
        let variance = x.iter().map(|v| v * v).sum::<f64>() / 4096.0;
        assert!(mean.abs() < 0.1 && (variance - 1.0).abs() < 0.1, "{mean} {variance}");
        let i = first.all().unwrap()[0]["i"].to_i64().unwrap();
        assert_eq!((i.iter().min(), i.iter().max()), (Some(&-3), Some(&3)));
    }

    #[test]
    fn sizes_that_no_memory_holds_are_refused() {
        let inputs = [input("x", DType::F32, vec![Dim::symbol("batch"), Dim::Known(3)])];
        for size in [1_000_000_000_000, 1 << 62] {
            let options = Options { dims: [("batch".to_owned(), size)].into(), ..Options::default() };
            let error = draw(7, &Model::default(), &inputs, &options).unwrap_err().to_string();
            assert!(error.contains("\"x\"") && error.contains(&size.to_string()) && error.contains("4 GiB"), "{error}");
        }
        let options = Options { samples: Some(u64::MAX), ..Options::default() };
        assert!(draw(7, &Model::default(), &inputs, &options).is_err());
    }

    #[test]
    fn ranges_must_fit_the_type() {
        let inputs = [input("i", DType::U8, vec![Dim::Known(1)])];
        let options = Options { ranges: [("i".to_owned(), (0, 257))].into(), ..Options::default() };
        let error = draw(7, &Model::default(), &inputs, &options).unwrap_err();
        assert!(error.to_string().contains("leaves its type, uint8"));
    }
}
