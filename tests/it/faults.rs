//! Finding and shrinking faults: a pass that is wrong on purpose is found, and the model that shows it gets small.

use planish::{
    bisect::{Bisection, Found, bisect},
    data::{Options, Samples, Source},
    engine::tract::Tract,
    equivalence::Expected,
    pipeline::Verify,
    reduce::reduce,
    trial::{Trial, Trouble},
};
use planish_ir::{GraphPath, Model, Numerics, Patch, Tensor, ValueId};
use planish_passes::{Changes, Context, InMemory, NoObserver, Pass, PassError, Shape, StepConfig, Transform};

/// Multiplies weights of convolutions, one patch for each, and says that nothing has changed.
struct Scale {
    /// Which weight, in the order of values, and by how much.
    factors: Vec<(usize, f32)>,
    gives_up: bool,
}

impl Pass for Scale {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for Scale {
    fn transform(&self, model: &Model, _: &Context<'_>) -> Result<Changes, PassError> {
        if self.gives_up {
            return Err(PassError::Precondition("asked to give up".into()));
        }
        let weights = weights(model);
        let mut changes = Changes::default();
        for &(index, factor) in &self.factors {
            let Some(&weight) = weights.get(index) else { continue };
            let t = model.graph.constant(weight).unwrap();
            let scaled: Vec<f32> = t.iter_f32().unwrap().map(|w| w * factor).collect();
            let mut patch = Patch::new(Numerics::Reassociated, format!("weight {index} times {factor}"));
            patch.set_tensor(weight, Tensor::from_f32(t.dims(), &scaled).unwrap());
            changes.patches.push((GraphPath::main(), patch));
        }
        Ok(changes)
    }
}

fn weights(model: &Model) -> Vec<ValueId> {
    let is_weight = |v: &planish_ir::Value| v.constant().is_some_and(|t| t.rank() == 4) && !v.users().is_empty();
    model.graph.values().filter(|(_, v)| is_weight(v)).map(|(id, _)| id).collect()
}

fn scale(factors: &[(usize, f32)]) -> StepConfig {
    let pass = Box::new(Scale { factors: factors.to_vec(), gives_up: false });
    StepConfig { name: "scale", config: Default::default(), pass }
}

fn step(name: &str) -> StepConfig {
    StepConfig::default_of(name).unwrap()
}

/// Six times Conv, BatchNormalization, Relu.
fn cnn() -> Model {
    let mut text =
        String::from("<ir_version: 8, opset_import: [\"\" : 17]> g (float[N,4,6,6] x0) => (float[N,4,6,6] x6) <");
    (0..6).for_each(|i| text += &format!("float[4,4,3,3] w{i}, "));
    text += "float[4] s = {1.0, 0.5, 2.0, 1.5}, float[4] b = {0.1, 0.2, -0.1, 0.3}> {";
    for i in 0..6 {
        text += &format!("c{i} = Conv <pads = [1, 1, 1, 1]> (x{i}, w{i})\n");
        text += &format!("n{i} = BatchNormalization (c{i}, s, b, b, s)\nx{} = Relu (n{i})\n", i + 1);
    }
    planish_ir::text::parse(&(text + "}")).unwrap()
}

fn samples(model: &Model) -> Samples {
    Source::Random { seed: 0 }.load(model, &Options { samples: Some(2), ..Options::default() }).unwrap()
}

fn trial<'a>(model: &'a Model, steps: &'a [StepConfig], samples: &'a Samples, verify: &'a Verify) -> Trial<'a> {
    let expected = Expected::of(&Tract, model, samples.first(2)).unwrap();
    let (calibration, bindings) = (None, Default::default());
    Trial { model, steps, weights: &InMemory, target: Default::default(), calibration, bindings, expected, verify }
}

fn search(steps: &[StepConfig]) -> Bisection {
    let model = cnn();
    let samples = samples(&model);
    bisect(&trial(&model, steps, &samples, &Verify::default()), &|_| {}, &NoObserver)
}

fn found(steps: &[StepConfig]) -> Found {
    match search(steps) {
        Bisection::Found(found) => *found,
        other => panic!("{other:?}"),
    }
}

#[test]
fn bisect_finds_a_weight_scaled_by_one_percent() {
    // Six patches that are right, then six of which the fourth is wrong.
    let factors: Vec<(usize, f32)> = (0..6).map(|i| (i, if i == 3 { 1.01 } else { 1.0 })).collect();
    let found = found(&[step("bn-into-conv"), scale(&factors), step("cse")]);
    let (line, together) = found.patch().unwrap();
    assert_eq!((line.number, line.pass, line.note.as_str(), together), (10, "scale", "weight 3 times 1.01", 1));
    assert!(found.before.verdict.as_ref().unwrap().failures.is_empty());
    assert!(found.after.verdict.as_ref().unwrap().failures[0].contains("more than rounding"));
    assert_eq!((found.before.patches, found.after.patches), (9, 10));
    assert_eq!(found.complaint.trouble, Trouble::Differs);
    assert!(found.doubts.is_empty(), "{:?}", found.doubts);
    // Binary search and the neighbours.
    assert!(found.runs <= 10, "{}", found.runs);
    assert!(matches!(found.models(), (_, Some(_))));
}

#[test]
fn bisect_says_so_if_nothing_fails() {
    let Bisection::Fine(whole) = search(&[step("bn-into-conv")]) else { panic!("something failed") };
    assert_eq!(whole.patches, 6);
    // Wrong on the way, but right at the end.
    assert!(matches!(search(&[scale(&[(3, 2.0)]), scale(&[(3, 0.5)])]), Bisection::Fine(_)));
}

#[test]
fn bisect_says_so_if_a_later_patch_mends() {
    let found = found(&[scale(&[(3, 2.0)]), scale(&[(3, 0.5)]), scale(&[(4, 2.0)])]);
    assert!(!found.doubts.is_empty());
}

#[test]
fn bisect_finds_a_pass_that_gives_up() {
    let mut wrong = scale(&[]);
    wrong.pass = Box::new(Scale { factors: Vec::new(), gives_up: true });
    let found = found(&[step("bn-into-conv"), wrong]);
    assert!(found.patch().is_none());
    assert_eq!(found.before.patches, 6);
    assert_eq!(
        (found.complaint.trouble, found.complaint.message.as_str()),
        (Trouble::GivesUp("scale"), "scale: asked to give up")
    );
}

#[test]
fn reduce_leaves_one_convolution_of_a_wrong_weight() {
    let model = cnn();
    let count = weights(&model).len();
    let every: Vec<(usize, f32)> = (0..count).map(|i| (i, 1.01)).collect();
    let steps = [step("bn-into-conv"), scale(&every)];
    let fails = |m: &Model| {
        let Ok(samples) = Source::Random { seed: 0 }.load(m, &Options { samples: Some(2), ..Options::default() })
        else {
            return false;
        };
        let verify = Verify::default();
        let Ok(expected) = Expected::of(&Tract, m, samples.first(2)) else { return false };
        let (calibration, bindings) = (None, Default::default());
        let trial = Trial {
            model: m,
            steps: &steps,
            weights: &InMemory,
            target: Default::default(),
            calibration,
            bindings,
            expected,
            verify: &verify,
        };
        trial.run(None, &NoObserver).complaint.is_some_and(|c| c.trouble == Trouble::Differs)
    };
    let reduced = reduce(&model, &mut |m| fails(m), &|_| {}).unwrap();
    assert_eq!((reduced.nodes, reduced.kept), (1, 0), "{}", reduced.text);
    assert!(reduced.text.contains("= Conv") && reduced.text.len() < 1000, "{}", reduced.text);
    assert!(fails(&planish_ir::text::parse(&reduced.text).unwrap()));
    assert!(reduced.tests < 60, "{}", reduced.tests);
}
