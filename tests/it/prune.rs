//! Pruning, with models that are run: channels that others can stand for go without a change of the outputs.

use planish::{
    data::{Options, Samples, Source},
    engine::tract::Tract,
    equivalence::compare,
    pipeline::Verify,
};
use planish_ir::{GraphPath, Model, Numerics, Patch, Tensor, cost, text};
use planish_passes::{EngineError, Outcome, Stopwatch, Target, Tensors, Timing};
use serde_json::{Value, json};

use crate::support::{compress, compress_by};

/// Convolutions with a skip, and a classifier behind them.
const NET: &str = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,5] y)
    <float[8,3,3,3] w0, float[8] b0, float[8,8,3,3] w1, float[16,8,3,3] w2, float[16] b2, float[16,5] w3> {
        a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
        r = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (r, w1)
        s = Add (c, r)
        d = Conv (s, w2, b2)
        e = Relu (d)
        p = GlobalAveragePool (e)
        f = Flatten (p)
        y = MatMul (f, w3)
    }"#;

/// Along an axis, the second half of each of so many blocks of a constant repeats the first, times a factor.
fn repeat_along(model: &mut Model, name: &str, axis: usize, blocks: usize, factor: f32) {
    let value = model.graph.value_named(name).unwrap();
    let tensor = model.graph.constant(value).unwrap();
    let mut values: Vec<f32> = tensor.iter_f32().unwrap().collect();
    let dims: Vec<usize> = tensor.dims().iter().map(|&d| d as usize).collect();
    let inner: usize = dims[axis + 1..].iter().product();
    let half = dims[axis] / blocks / 2;
    for at in 0..values.len() {
        let place = at / inner % dims[axis];
        if place % (2 * half) >= half {
            values[at] = factor * values[at - half * inner];
        }
    }
    let tensor = Tensor::from_f32(tensor.dims(), &values).unwrap();
    let mut patch = Patch::new(Numerics::Lossy, "repeated");
    patch.set_tensor(value, tensor);
    model.apply(&GraphPath::main(), patch).unwrap();
}

/// The second half of the rows of a constant repeats the first, times a factor.
fn repeat(model: &mut Model, name: &str, factor: f32) {
    repeat_along(model, name, 0, 1, factor);
}

fn samples(model: &Model, seed: u64) -> Samples {
    Source::Random { seed }.load(model, &Options { samples: Some(24), ..Options::default() }).unwrap()
}

fn prune(model: &mut Model, config: Value) -> Outcome {
    run(model, "prune", config)
}

fn run(model: &mut Model, pass: &str, config: Value) -> Outcome {
    let samples = samples(model, 1);
    compress(model, pass, config, Target::default(), &samples)
}

/// Signal to error in dB, on samples that the fit has not seen; infinite if there is no difference.
fn sqnr(original: &Model, model: &Model) -> f64 {
    let samples = samples(original, 2);
    let verdict =
        compare(&Tract, original, model, samples.first(u64::MAX), Numerics::Lossy, &Verify::default()).unwrap();
    verdict.outputs[0].sqnr_db.unwrap_or(f64::INFINITY)
}

/// Tolerance: 60 dB, which is rounding in float32 and a ridge of a millionth.
#[test]
fn repeated_channels_go_without_a_change() {
    let mut model = planish_ir::text::parse(NET).unwrap();
    // Relu lets positive factors through.
    [("w2", 1.5), ("b2", 1.5)].into_iter().for_each(|(name, by)| repeat(&mut model, name, by));
    let original = model.clone();
    // Of 16 channels, 8 are enough; the other class has to stay.
    let outcome = prune(&mut model, json!({"params": 0.7, "round_to": 1, "protect": ["w0"]}));
    assert!(outcome.after.parameters < outcome.before.parameters * 70 / 100, "{outcome:?}");
    let kept = model.graph.constant(model.graph.value_named("w2").unwrap()).unwrap().dims()[0];
    assert_eq!(kept, 8);
    let found = sqnr(&original, &model);
    assert!(found > 60.0, "{found} dB, {:?}", outcome.passes[0].notes);
}

/// The test above can fail: the same share of channels that nothing stands for costs the outputs.
#[test]
fn channels_of_their_own_do_not_go_for_nothing() {
    let original = planish_ir::text::parse(NET).unwrap();
    let mut model = original.clone();
    prune(&mut model, json!({"params": 0.7, "round_to": 1, "protect": ["w0"]}));
    let found = sqnr(&original, &model);
    assert!(found < 50.0, "{found} dB");
}

#[test]
fn the_budget_is_kept_to() {
    let mut model = planish_ir::text::parse(NET).unwrap();
    let outcome = prune(&mut model, json!({"macs": 0.5, "round_to": 1}));
    let kept = outcome.after.macs as f64 / outcome.before.macs as f64;
    assert!((0.3..=0.5).contains(&kept), "{kept}: {:?}", outcome.passes[0].notes);
}

/// Takes a fifth of the time for nothing, and the rest for the MACs.
struct Counts;

impl Stopwatch for Counts {
    fn tool(&self) -> Result<String, EngineError> {
        Ok("counting".to_owned())
    }

    fn beside(&self, original: &Model, _: &Tensors) -> Result<Box<dyn Timing>, EngineError> {
        Ok(Box::new(Counted(macs(original))))
    }
}

struct Counted(f64);

impl Timing for Counted {
    fn share(&mut self, model: &Model) -> Result<f64, EngineError> {
        Ok(0.2 + 0.8 * macs(model) / self.0)
    }
}

fn macs(model: &Model) -> f64 {
    cost::cost(model, &[("N".to_owned(), 1)].into()).macs as f64
}

#[test]
fn a_latency_is_reached_by_what_is_timed() {
    let original = planish_ir::text::parse(NET).unwrap();
    let samples = samples(&original, 1);
    let compress = |stopwatch: Option<&dyn Stopwatch>, config: Value| {
        let mut model = original.clone();
        let outcome = compress_by(stopwatch, &mut model, "prune", config, Target::default(), &samples);
        outcome.map(|outcome| (model, outcome.passes[0].notes.join("\n")))
    };
    let (timed, notes) = compress(Some(&Counts), json!({"latency": 0.6, "round_to": 1})).unwrap();
    let kept = macs(&timed) / macs(&original);
    assert!((0.3..=0.5).contains(&kept), "{kept}: {notes}");
    // What the report says to ask for gives the same model.
    let (_, share) = notes.split_once("`prune: {macs: ").expect(&notes);
    let share: f64 = share.split_once('}').unwrap().0.parse().unwrap();
    let (counted, _) = compress(None, json!({"macs": share, "round_to": 1})).unwrap();
    assert_eq!(text::print(&timed), text::print(&counted), "{notes}");
    let refused = compress(None, json!({"latency": 0.6})).unwrap_err().to_string();
    assert!(refused.contains("give the budget of MACs"), "{refused}");
}

/// Four heads of eight channels.
const HEADS: &str = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,S,16] x) => (float[N,S,16] y)
    <float[16,32] wq, float[32] bq, float[16,32] wk, float[16,32] wv, float[32] bv, float[32,16] wo,
     int64[4] split = {0, 0, 4, 8}, int64[3] merge = {0, 0, 32}, float scale = {0.35}> {
        q = MatMul (x, wq)
        qb = Add (q, bq)
        k = MatMul (x, wk)
        v = MatMul (x, wv)
        vb = Add (bv, v)
        q1 = Reshape (qb, split)
        k1 = Reshape (k, split)
        v1 = Reshape (vb, split)
        q2 = Transpose <perm = [0, 2, 1, 3]> (q1)
        k2 = Transpose <perm = [0, 2, 3, 1]> (k1)
        v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
        s = MatMul (q2, k2)
        t = Mul (s, scale)
        p = Softmax <axis = -1> (t)
        o = MatMul (p, v2)
        o1 = Transpose <perm = [0, 2, 1, 3]> (o)
        o2 = Reshape (o1, merge)
        a = MatMul (o2, wo)
        y = Add (a, x)
    }"#;

/// Tolerance: 60 dB, as above. No channel repeats another one of queries and keys both; only in other bases can half of them go.
#[test]
fn channels_of_heads_and_heads_go_without_a_change() {
    let mut model = planish_ir::text::parse(HEADS).unwrap();
    for (name, axis) in [("wq", 1), ("bq", 0), ("wv", 1), ("bv", 0)] {
        repeat_along(&mut model, name, axis, 4, 0.5);
    }
    for (name, axis) in [("wq", 1), ("bq", 0), ("wk", 1), ("wv", 1), ("bv", 0)] {
        repeat_along(&mut model, name, axis, 1, 1.0);
    }
    let pruned = |units: &[&str]| {
        let mut pruned = model.clone();
        let config = json!({"macs": 0.1, "units": units, "min_keep": 0.5, "round_to": 1});
        let outcome = prune(&mut pruned, config);
        let found = sqnr(&model, &pruned);
        assert!(found > 60.0, "{found} dB, {:?}", outcome.passes[0].notes);
        let dims = |name: &str| pruned.graph.constant(pruned.graph.value_named(name).unwrap()).unwrap().dims().to_vec();
        (dims("wq"), dims("wk"), dims("wv"), dims("wo"))
    };
    let square = |n: u64| (vec![16, n], vec![16, n], vec![16, n], vec![n, 16]);
    assert_eq!(pruned(&["head-channels"]), square(16));
    assert_eq!(pruned(&["heads"]), square(16));
    assert_eq!(pruned(&["heads", "head-channels"]), square(8));
}

/// Numbers, reproducibly.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// A model at random, of blocks with a skip, whose inner channels can do without half of them.
#[derive(Default)]
struct Wasteful {
    weights: Vec<String>,
    nodes: Vec<String>,
    /// Weights whose elements halve.
    hidden: Vec<String>,
    /// What repeats: the constant, its axis, blocks of it, and the factor.
    repeats: Vec<(String, usize, usize, f32)>,
}

impl Wasteful {
    fn weight(&mut self, name: String, dims: &str, repeats: Option<(usize, usize, f32)>) {
        self.weights.push(format!("float[{dims}] {name}"));
        self.repeats.extend(repeats.map(|(axis, blocks, factor)| (name.clone(), axis, blocks, factor)));
        self.hidden.push(name);
    }

    /// Convolutions: plain, through a depthwise one, in groups, or side by side.
    fn convolutions(dice: &mut Dice) -> Wasteful {
        let mut net = Wasteful::default();
        net.nodes.push("x0 = Conv (x, stem)".into());
        let blocks = 1 + dice.below(3);
        for i in 0..blocks {
            let hidden = 4 * (1 + dice.below(3));
            // Zero, or a copy that Relu lets through.
            let factor = [0.0, 0.5, 1.0, 2.0][dice.below(4) as usize];
            let (a, b, c) = (format!("a{i}"), format!("b{i}"), format!("c{i}"));
            let width = match dice.below(4) {
                0 => {
                    net.weight(a.clone(), &format!("{hidden},8,3,3"), Some((0, 1, factor)));
                    net.weight(b.clone(), &format!("{hidden}"), Some((0, 1, factor)));
                    net.nodes.push(format!("h{i} = Conv <pads = [1, 1, 1, 1]> (x{i}, {a}, {b})\n r{i} = Relu (h{i})"));
                    hidden
                }
                1 => {
                    net.weight(a.clone(), &format!("{hidden},8,1,1"), Some((0, 1, factor)));
                    net.weight(b.clone(), &format!("{hidden},1,3,3"), Some((0, 1, 1.5)));
                    net.nodes.push(format!("g{i} = Conv (x{i}, {a})\n q{i} = Relu (g{i})"));
                    net.nodes.push(format!(
                        "h{i} = Conv <group = {hidden}, pads = [1, 1, 1, 1]> (q{i}, {b})\n r{i} = Relu (h{i})"
                    ));
                    hidden
                }
                2 => {
                    net.weight(a.clone(), &format!("{hidden},4,3,3"), Some((0, 2, factor)));
                    net.nodes
                        .push(format!("h{i} = Conv <group = 2, pads = [1, 1, 1, 1]> (x{i}, {a})\n r{i} = Relu (h{i})"));
                    hidden
                }
                _ => {
                    net.weight(a.clone(), &format!("{hidden},8,1,1"), Some((0, 1, factor)));
                    net.weight(b.clone(), "6,8,3,3", Some((0, 1, 0.5)));
                    net.nodes.push(format!("g{i} = Conv (x{i}, {a})\n q{i} = Relu (g{i})"));
                    net.nodes.push(format!("h{i} = Conv <pads = [1, 1, 1, 1]> (x{i}, {b})"));
                    net.nodes.push(format!("r{i} = Concat <axis = 1> (q{i}, h{i})"));
                    hidden + 6
                }
            };
            net.weight(c.clone(), &format!("8,{width},1,1"), None);
            // There already, so that the fit adds no parameters.
            net.weights.push(format!("float[8] d{i}"));
            net.nodes.push(format!("y{i} = Conv (r{i}, {c}, d{i})\n x{} = Add (x{i}, y{i})", i + 1));
        }
        net.weights.push("float[8,3,1,1] stem, float[8,5] out".into());
        net.nodes.push(format!("p = GlobalAveragePool (x{blocks})\n f = Flatten (p)\n y = MatMul (f, out)"));
        net
    }

    /// Attention and feed-forward.
    fn attention(dice: &mut Dice) -> Wasteful {
        let mut net = Wasteful::default();
        let (heads, size, hidden) = (2 * (1 + dice.below(2)), 2 + dice.below(2), 4 * (1 + dice.below(3)));
        let (inner, factor) = (heads * size, [0.0, 0.5, 1.0][dice.below(3) as usize]);
        for (name, by) in [("wq", 1.0), ("wk", 1.0), ("wv", factor)] {
            net.weight(name.into(), &format!("8,{inner}"), Some((1, 1, by)));
        }
        net.weight("wo".into(), &format!("{inner},8"), None);
        net.weight("up".into(), &format!("8,{hidden}"), Some((1, 1, 2.0)));
        net.weight("bu".into(), &format!("{hidden}"), Some((0, 1, 2.0)));
        net.weight("down".into(), &format!("{hidden},8"), None);
        net.weights.push(format!(
            "float[3,8] stem, float[8,5] out, int64[4] split = {{0, 0, {heads}, {size}}}, int64[3] merge = {{0, 0, {inner}}}"
        ));
        net.nodes.push(
            "x0 = MatMul (x, stem)
            q = MatMul (x0, wq)
            k = MatMul (x0, wk)
            v = MatMul (x0, wv)
            q1 = Reshape (q, split)
            k1 = Reshape (k, split)
            v1 = Reshape (v, split)
            q2 = Transpose <perm = [0, 2, 1, 3]> (q1)
            k2 = Transpose <perm = [0, 2, 3, 1]> (k1)
            v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
            s = MatMul (q2, k2)
            p = Softmax <axis = -1> (s)
            o = MatMul (p, v2)
            o1 = Transpose <perm = [0, 2, 1, 3]> (o)
            o2 = Reshape (o1, merge)
            a = MatMul (o2, wo)
            x1 = Add (a, x0)
            u = MatMul (x1, up)
            ub = Add (u, bu)
            r = Relu (ub)
            d = MatMul (r, down)
            x2 = Add (d, x1)
            y = MatMul (x2, out)"
                .into(),
        );
        net
    }

    /// The model, and the share of its parameters that is enough.
    fn model(&self, interface: &str) -> (Model, f64) {
        let (weights, nodes) = (self.weights.join(", "), self.nodes.join("\n "));
        let text = format!(r#"<ir_version: 8, opset_import: ["" : 17]> g {interface} <{weights}> {{ {nodes} }}"#);
        let mut model = planish_ir::text::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        self.repeats.iter().for_each(|(name, axis, blocks, by)| repeat_along(&mut model, name, *axis, *blocks, *by));
        let all = planish_ir::cost::cost(&model, &Default::default()).parameters as f64;
        let elements =
            |name: &String| model.graph.constant(model.graph.value_named(name).unwrap()).unwrap().elements() as f64;
        let spare = self.hidden.iter().map(elements).sum::<f64>() / 2.0;
        (model, (all - spare) / all)
    }
}

/// Tolerance as above. What is left of each model is what it needs: nothing else may go.
#[test]
fn whatever_a_random_model_can_spare_goes_without_a_change() {
    for seed in 0..12 {
        let mut dice = Dice(seed);
        let (net, interface) = match seed % 3 {
            0 => (Wasteful::attention(&mut dice), "(float[N,7,3] x) => (float[N,7,5] y)"),
            _ => (Wasteful::convolutions(&mut dice), "(float[N,3,6,6] x) => (float[N,5] y)"),
        };
        let (original, share) = net.model(interface);
        let mut model = original.clone();
        let outcome = prune(&mut model, json!({"params": share + 1e-6, "round_to": 1, "protect": ["stem"]}));
        let kept = outcome.after.parameters as f64 / outcome.before.parameters as f64;
        let (found, notes) = (sqnr(&original, &model), &outcome.passes[0].notes);
        assert!(kept <= share + 1e-5, "seed {seed}: {kept} instead of {share}: {notes:?}\n{:?}", net.nodes);
        assert!(found > 60.0, "seed {seed}: {found} dB: {notes:?}\n{:?}", net.nodes);
    }
}

/// A block whose branch is zero is the one that goes.
#[test]
fn a_block_that_adds_nothing_is_dropped_without_a_change() {
    let text = r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,4] y)
        <float[8,8] a, float[8,8] b, float[8,8] c, float[8,4] out> {
            x0 = Relu (x)
            p = MatMul (x0, a)
            x1 = Add (x0, p)
            q = MatMul (x1, b)
            x2 = Add (q, x1)
            r = MatMul (x2, c)
            x3 = Add (x2, r)
            y = MatMul (x3, out)
        }"#;
    let mut model = planish_ir::text::parse(text).unwrap();
    let zero = model.graph.value_named("b").unwrap();
    let mut patch = Patch::new(Numerics::Lossy, "zero");
    patch.set_tensor(zero, Tensor::from_f32([8, 8].as_slice(), &[0.0; 64]).unwrap());
    model.apply(&GraphPath::main(), patch).unwrap();
    let original = model.clone();
    let outcome = run(&mut model, "drop-layers", json!({"count": 1}));
    assert!(model.graph.value_named("b").is_none(), "{:?}", outcome.passes[0].notes);
    assert!(sqnr(&original, &model) > 60.0);
    // The next one costs something, and the fit makes up for a part of it.
    let outcome = run(&mut model, "drop-layers", json!({"macs": 0.7}));
    assert!(outcome.after.macs * 10 <= outcome.before.macs * 7, "{outcome:?}");
}
