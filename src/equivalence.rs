//! Two models on the same inputs: are the outputs as close as they have to be?

use std::{collections::BTreeSet, time::Instant};

use planish_ir::{Model, Numerics, Tensor};
use planish_passes::{
    Engine, EngineError,
    squashed::{self, Before},
};
use rayon::prelude::*;
use serde::Serialize;

use crate::{
    data::{Runs, Samples},
    engine::adapt,
    metrics::{Comparison, Tolerance},
    pipeline::Verify,
};

/// The figures of one output.
#[derive(Debug, Clone, Serialize)]
pub struct OutputFigures {
    /// Name of the output.
    pub output: String,
    /// Same bits everywhere.
    pub identical: bool,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Largest difference as a share of the largest magnitude.
    pub max_relative: f64,
    /// Over all samples.
    pub cosine: f64,
    /// Signal to quantization noise ratio in dB; absent if there is no difference.
    pub sqnr_db: Option<f64>,
    /// The same before the Softmax, LogSoftmax, Sigmoid or Tanh that both models end with here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqnr_before_db: Option<f64>,
    /// Share of rows with the same largest element, where there are rows.
    pub top1_agreement: Option<f64>,
}

/// The verdict on a model.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Who ran the models.
    pub engine: String,
    /// How many runs were compared.
    pub runs: usize,
    /// How many samples these were.
    pub samples: u64,
    /// What was asked for.
    pub asked: String,
    /// Per output.
    pub outputs: Vec<OutputFigures>,
    /// What is not as asked, a sentence each.
    pub failures: Vec<String>,
    /// Seconds that it took.
    #[serde(skip)]
    pub seconds: f64,
}

/// Runs both models on all samples and compares each output with what `verify` and the passes' class ask for.
pub fn compare(
    engine: &dyn Engine,
    reference: &Model,
    model: &Model,
    runs: Runs<'_>,
    class: Numerics,
    verify: &Verify,
) -> Result<Verdict, EngineError> {
    let start = Instant::now();
    // One after the other, so that only one is in memory at a time.
    let verdict = Expected::of(engine, reference, runs)?.compare(model, class, verify)?;
    Ok(Verdict { seconds: start.elapsed().as_secs_f64(), ..verdict })
}

/// The same, on samples that both can run: see [`Expected::fitting`]. What the reference makes of sizes that it is not made for, a
/// model with fewer and larger operators may refuse.
pub fn compare_drawn(
    engine: &dyn Engine,
    reference: &Model,
    model: &Model,
    samples: &mut Samples,
    class: Numerics,
    verify: &Verify,
) -> Result<Verdict, EngineError> {
    let start = Instant::now();
    let mut first: Option<(Samples, EngineError)> = None;
    let verdict = loop {
        let expected = match Expected::fitting(engine, reference, samples, verify.samples) {
            Ok(expected) => expected,
            Err(e) => break Err(e),
        };
        match expected.compare(model, class, verify) {
            Ok(verdict) => break Ok(verdict),
            Err(e) => match samples.wider(reference) {
                Some(Ok(wider)) => {
                    let smaller = std::mem::replace(samples, wider);
                    first.get_or_insert((smaller, e));
                }
                Some(Err(_)) | None => break Err(e),
            },
        }
    };
    match (verdict, first) {
        (Ok(verdict), first) => {
            samples.notes.extend(first.map(|(_, e)| format!("with smaller sizes the result does not run: {e}")));
            Ok(Verdict { seconds: start.elapsed().as_secs_f64(), ..verdict })
        }
        (Err(e), None) => Err(e),
        // Larger ones did not help; what the first ones met says more.
        (Err(_), Some((smaller, e))) => {
            *samples = smaller;
            Err(e)
        }
    }
}

/// Of each run, the outputs.
type Outputs = Vec<Vec<Tensor>>;

/// What a model computes on some samples, to compare others with.
pub struct Expected<'a> {
    engine: &'a dyn Engine,
    runs: Runs<'a>,
    /// Of the outputs.
    names: Vec<String>,
    /// What is before squashing functions at their ends.
    before: Vec<Option<Before>>,
    /// Values of the outputs, and behind them those before squashing functions.
    outputs: Outputs,
}

impl<'a> Expected<'a> {
    /// Runs the reference.
    pub fn of(engine: &'a dyn Engine, reference: &Model, runs: Runs<'a>) -> Result<Expected<'a>, EngineError> {
        let names: Vec<String> = reference.graph.outputs().iter().map(|&v| reference.graph.name_of(v)).collect();
        let before = before(reference, &names);
        let outputs = run(engine, reference, &values(&names, &before), runs)?;
        Ok(Expected { engine, runs, names, before, outputs })
    }

    /// Runs the reference. If the samples are drawn, and it fails with the sizes of their open axes or computes no number, larger ones
    /// take their place, and a note says so. If none is large enough, the first ones stay, and so does what the engine said of them.
    pub fn fitting(
        engine: &'a dyn Engine,
        reference: &Model,
        samples: &'a mut Samples,
        wanted: u64,
    ) -> Result<Expected<'a>, EngineError> {
        let names: Vec<String> = reference.graph.outputs().iter().map(|&v| reference.graph.name_of(v)).collect();
        let before = before(reference, &names);
        let asked = values(&names, &before);
        let mut first: Option<(Samples, Result<Outputs, EngineError>)> = None;
        let outputs = loop {
            let result = run(engine, reference, &asked, samples.first(wanted));
            match &result {
                Ok(outputs) if !is_vacuous(outputs) => break result,
                // No size helps here.
                Err(EngineError::Unsupported { .. } | EngineError::Refused { .. }) => break result,
                Ok(_) | Err(EngineError::Failed { .. }) => {}
            }
            match samples.wider(reference) {
                Some(Ok(wider)) => {
                    let smaller = std::mem::replace(samples, wider);
                    first.get_or_insert((smaller, result));
                }
                Some(Err(_)) | None => match first.take() {
                    Some((smaller, result)) => {
                        *samples = smaller;
                        break result;
                    }
                    None => break result,
                },
            }
        }?;
        if let Some((_, result)) = first {
            let why = result.err().map_or_else(|| "it computes no number".to_owned(), |e| e.to_string());
            samples.notes.push(format!("with smaller sizes the original does not run: {why}"));
        }
        if is_vacuous(&outputs) {
            samples
                .notes
                .push("the original computes no finite number on these samples, so little was compared".to_owned());
        }
        Ok(Expected { engine, runs: samples.first(wanted), names, before, outputs })
    }

    /// Runs a model and compares each output with what `verify` and the passes' class ask for.
    pub fn compare(&self, model: &Model, class: Numerics, verify: &Verify) -> Result<Verdict, EngineError> {
        let start = Instant::now();
        let names = &self.names;
        // Of both, or of none: the same function has to be behind it.
        let pair = |(of_model, before): (Option<Before>, &Option<Before>)| {
            of_model.filter(|b| before.as_ref().is_some_and(|of_reference| of_reference.function == b.function))
        };
        let before: Vec<Option<Before>> = before(model, names).into_iter().zip(&self.before).map(pair).collect();
        let mut actual = run(self.engine, model, &values(names, &before), self.runs)?;
        for (expected, actual) in self.outputs.iter().zip(&mut actual) {
            // Outputs of another width, if the user wanted these, count for their numbers.
            let behind = actual.split_off(names.len().min(actual.len()));
            let pairs = std::mem::take(actual).into_iter().zip(expected);
            *actual = pairs.map(|(a, e)| adapt::like(a, e)).collect::<Result<_, _>>()?;
            actual.extend(behind);
        }
        let mut comparisons: Vec<Comparison> = names.iter().map(|_| Comparison::new()).collect();
        let mut behind: Vec<Option<Comparison>> =
            before.iter().map(|b| b.as_ref().map(|_| Comparison::new())).collect();
        let mut failures = Vec::new();
        for (run, (e, a)) in self.outputs.iter().zip(&actual).enumerate() {
            for ((name, c), (e, a)) in names.iter().zip(&mut comparisons).zip(e.iter().zip(a)) {
                if let Err(mismatch) = c.add(e, a) {
                    failures.push(format!("output {name:?}, run {run}: {mismatch}"));
                }
            }
            let (mut e, mut a) = (e.iter().skip(names.len()), a.iter().skip(names.len()));
            for ((c, before), of_reference) in behind.iter_mut().zip(&before).zip(&self.before) {
                let e = of_reference.as_ref().and_then(|_| e.next());
                let a = before.as_ref().and_then(|_| a.next());
                let (Some(b), Some(e), Some(a)) = (before, e, a) else { continue };
                let a = adapt::like(a.clone(), e)?;
                let view = |t: &Tensor| b.is_centred.then(|| squashed::centred(t)).flatten();
                let (e, a) = (view(e).unwrap_or_else(|| e.clone()), view(&a).unwrap_or(a));
                // Rewrites may give it another shape, if they do the same to the function behind it.
                if c.as_mut().is_some_and(|c| c.add(&e, &a).is_err()) {
                    *c = None;
                }
            }
        }
        let compared = comparisons.iter().zip(&behind);
        for (name, (c, behind)) in names.iter().zip(compared.clone()) {
            let judged = judge(c, behind.as_ref(), class, verify);
            failures.extend(judged.into_iter().map(|f| format!("output {name:?}: {f}")));
        }
        Ok(Verdict {
            engine: self.engine.name().to_owned(),
            runs: self.runs.len(),
            samples: self.runs.samples,
            asked: asked(class, verify),
            outputs: names.iter().zip(compared).map(|(n, (c, b))| figures(n, c, b.as_ref())).collect(),
            failures,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// True if there are float outputs and no finite number in them.
fn is_vacuous(outputs: &Outputs) -> bool {
    let mut floats = outputs.iter().flatten().filter(|t| t.dtype().is_float()).peekable();
    let is_empty = |t: &Tensor| t.to_f64().is_ok_and(|v| !v.iter().any(|x| x.is_finite()));
    floats.peek().is_some() && floats.all(is_empty)
}

fn run(engine: &dyn Engine, model: &Model, outputs: &[String], runs: Runs<'_>) -> Result<Outputs, EngineError> {
    let runnable = engine.load(model, outputs)?;
    // Inputs are made where they are used, so that only those of the runs that take place are in memory.
    let one = |i: usize| {
        let inputs = runs.inputs(i);
        let inputs = inputs.map_err(|e| EngineError::Failed { message: format!("a sample cannot be used: {e:#}") })?;
        runnable.run(&*adapt::inputs(&inputs, model)?)
    };
    (0..runs.len()).into_par_iter().map(one).collect()
}

fn asked(class: Numerics, v: &Verify) -> String {
    let owed = match class {
        Numerics::Exact => Some("bit equality".to_owned()),
        Numerics::Reassociated => Some("equality within float rounding".to_owned()),
        Numerics::Lossy => None,
    };
    let bounds = [
        owed,
        v.min_cosine.map(|x| format!("cosine >= {x}")),
        v.min_sqnr_db.map(|x| format!("SQNR >= {x} dB")),
        v.top1_agreement.map(|x| format!("top-1 agreement >= {x}")),
        v.max_abs.map(|x| format!("difference <= {x}")),
    ];
    let asked = bounds.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if asked.is_empty() { "no bound; figures only".to_owned() } else { asked }
}

/// What is before squashing functions at the ends of outputs, if it is no output itself.
fn before(model: &Model, names: &[String]) -> Vec<Option<Before>> {
    let mut taken: BTreeSet<String> = names.iter().cloned().collect();
    let before = |name: &String| squashed::before(model, name).filter(|b| taken.insert(b.name.clone()));
    names.iter().map(before).collect()
}

/// The values to run a model for.
fn values(names: &[String], before: &[Option<Before>]) -> Vec<String> {
    names.iter().chain(before.iter().flatten().map(|b| &b.name)).cloned().collect()
}

/// What the class owes, and every bound on top of it. `before` is what was compared before a squashing function.
fn judge(c: &Comparison, before: Option<&Comparison>, class: Numerics, v: &Verify) -> Vec<String> {
    let bounds = Tolerance::Lossy { min_cosine: v.min_cosine.unwrap_or(f64::NEG_INFINITY), min_top1: v.top1_agreement };
    let mut failures: Vec<String> = Tolerance::of(class, bounds).check(c).err().into_iter().collect();
    if class != Numerics::Lossy {
        // With nothing compared both say the same.
        let missed = bounds.check(c).err().filter(|f| !failures.contains(f));
        failures.extend(missed);
    }
    let (sqnr, place) = match before {
        Some(before) => (before.sqnr_db(), " before the last function"),
        None => (c.sqnr_db(), ""),
    };
    if let Some(bound) = v.min_sqnr_db.filter(|&b| sqnr.is_nan() || sqnr < b) {
        failures.push(format!("the SQNR is {sqnr:.2} dB{place}, below {bound}"));
    }
    if let Some(bound) = v.max_abs.filter(|&b| c.max_abs() > b) {
        failures.push(format!("the largest difference is {:.3e}, above {bound}", c.max_abs()));
    }
    failures
}

fn figures(name: &str, c: &Comparison, before: Option<&Comparison>) -> OutputFigures {
    OutputFigures {
        output: name.to_owned(),
        identical: c.identical(),
        max_abs: c.max_abs(),
        max_relative: c.max_relative(),
        cosine: c.cosine(),
        sqnr_db: Some(c.sqnr_db()).filter(|x| x.is_finite()),
        sqnr_before_db: before.map(Comparison::sqnr_db).filter(|x| x.is_finite()),
        top1_agreement: c.top1_agreement(),
    }
}

#[cfg(test)]
mod tests {
    use planish_passes::{Runnable, Tensors};

    use super::*;
    use crate::data::{Options, Source};

    fn compared(reference: &[f32], actual: &[f32]) -> Comparison {
        let t = |v: &[f32]| Tensor::from_f32([v.len() as u64].as_slice(), v).unwrap();
        Comparison::of(&t(reference), &t(actual)).unwrap()
    }

    /// Runs models by doing nothing, and those of two nodes only on inputs of 20 elements and more.
    struct Choosy;

    struct Copies {
        only_large: bool,
    }

    impl Engine for Choosy {
        fn name(&self) -> &str {
            "choosy"
        }

        fn load(&self, model: &Model, _: &[String]) -> Result<Box<dyn Runnable>, EngineError> {
            Ok(Box::new(Copies { only_large: model.graph.node_count() > 1 }))
        }
    }

    impl Runnable for Copies {
        fn run(&self, inputs: &Tensors) -> Result<Vec<Tensor>, EngineError> {
            match inputs.values().any(|t| self.only_large && t.elements() < 20) {
                true => Err(EngineError::Failed { message: "too small".to_owned() }),
                false => Ok(inputs.values().cloned().collect()),
            }
        }
    }

    #[test]
    fn sizes_that_only_the_result_cannot_run_with_grow_too() {
        let parsed = |body: &str| {
            let header = r#"<ir_version: 10, opset_import: ["" : 17]>"#;
            planish_ir::text::parse(&format!("{header} g (float[1,n] x) => (float[1,n] y) {{ {body} }}")).unwrap()
        };
        let one = parsed("y = Identity(x)");
        let two = parsed("z = Identity(x) y = Identity(z)");
        let drawn = || Source::Random { seed: 0 }.load(&one, &Options::default()).unwrap();
        let compare = |model: &Model, samples: &mut Samples| {
            compare_drawn(&Choosy, &one, model, samples, Numerics::Exact, &Verify::default())
        };

        let mut samples = drawn();
        assert!(compare(&one, &mut samples).unwrap().failures.is_empty());
        assert_eq!(samples.notes, drawn().notes);

        assert!(compare(&two, &mut samples).unwrap().failures.is_empty());
        assert!(samples.notes.iter().any(|n| n == "with smaller sizes the result does not run: too small"));

        // What was given is not changed.
        let fixed = Options { dims: [("n".to_owned(), 8)].into(), ..Options::default() };
        let mut samples = Source::Random { seed: 0 }.load(&one, &fixed).unwrap();
        assert_eq!(compare(&two, &mut samples).unwrap_err().to_string(), "too small");
    }

    #[test]
    fn bounds_come_on_top_of_what_passes_owe() {
        let close = compared(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.01]);
        let bounded = Verify { min_cosine: Some(0.9), ..Verify::default() };
        assert!(judge(&close, None, Numerics::Exact, &bounded)[0].starts_with("not bit-identical"));
        assert!(judge(&close, None, Numerics::Reassociated, &bounded)[0].contains("more than rounding"));
        assert!(judge(&close, None, Numerics::Lossy, &bounded).is_empty());
        let before = compared(&[1.0, 0.0], &[0.5, 0.0]);
        let decibels = Verify { min_sqnr_db: Some(10.0), ..Verify::default() };
        assert!(judge(&close, None, Numerics::Lossy, &decibels).is_empty());
        assert_eq!(
            judge(&close, Some(&before), Numerics::Lossy, &decibels),
            ["the SQNR is 6.02 dB before the last function, below 10"]
        );
        let strict = Verify { min_cosine: Some(1.0), max_abs: Some(0.001), ..Verify::default() };
        assert_eq!(judge(&close, None, Numerics::Exact, &strict).len(), 3);
        assert_eq!(judge(&close, None, Numerics::Lossy, &strict).len(), 2);
        assert_eq!(judge(&Comparison::new(), None, Numerics::Exact, &bounded), ["nothing was compared"]);
        assert_eq!(asked(Numerics::Exact, &bounded), "bit equality, cosine >= 0.9");
        assert_eq!(asked(Numerics::Lossy, &bounded), "cosine >= 0.9");
        assert_eq!(asked(Numerics::Lossy, &Verify::default()), "no bound; figures only");
    }
}
