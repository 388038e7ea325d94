//! Matrix products as chains of products with the cores of a tensor train.
//!
//! A row `x` is written with an axis for each digit. The last core is multiplied from the right, the others from the left, where the digit and the
//! rank that a core sums over lie beside each other already: nothing is transposed between them.

use faer::Mat;
use planish_ir::{Attrs, NodeId, OpName, Patch, Ref, Tensor, TensorError, ValueId};

use super::{
    method::{Cost, Gain, Place, Reads, Scene, elements},
    tensor_train::Readers,
    train::{Core, Mode, Train, digits, permuted},
};
use crate::{Bias, Linear, Skip, calibration::Rows};

/// A matrix, and the nodes that multiply by it.
pub(super) struct Chains<'a> {
    scene: Scene<'a>,
    linears: Vec<Linear>,
    like: &'a Tensor,
    outputs: usize,
    inputs: usize,
}

impl<'a> Chains<'a> {
    pub(super) fn of(scene: &Scene<'a>, weight: ValueId, nodes: &[NodeId]) -> Result<Chains<'a>, Skip> {
        let graph = &scene.model.graph;
        let linear = |&id: &NodeId| Linear::of(graph, id).filter(|l| l.weight == weight);
        let linears: Vec<Linear> = nodes.iter().map(linear).collect::<Option<_>>().ok_or(Skip::NoMatch)?;
        let (Some(first), Some(like)) = (linears.first(), graph.constant(weight)) else { return Err(Skip::NoMatch) };
        let nodes = || linears.iter().filter_map(|l| graph.node(l.node));
        if like.rank() != 2 || !nodes().all(|n| n.op.is("MatMul") || n.op.is("Gemm")) {
            return Err(Skip::NoMatch);
        }
        if linears.iter().any(|l| l.rows != Rows::Axis(-1)) {
            return Err(Skip::because("what it multiplies is read transposed"));
        }
        if nodes().any(|n| ["alpha", "beta"].iter().any(|a| n.attrs.float(a).is_some_and(|x| x != 1.0))) {
            return Err(Skip::because("its product or its bias is scaled"));
        }
        if linears.iter().any(|l| !l.has_layout_of(first)) {
            return Err(Skip::because("the nodes that read its weights do not read them in the same way"));
        }
        if linears.iter().any(|l| scene.facts.fact(l.input).shape().is_none()) {
            return Err(Skip::because("it is not known how many axes its input has"));
        }
        let inputs = first.width(like).unwrap_or(0).max(1);
        let outputs = usize::try_from(like.elements()).unwrap_or(0) / inputs;
        Ok(Chains { scene: *scene, linears, like, outputs, inputs })
    }

    /// Puts products with the factors in the place of a node, which becomes the last of them: a Reshape, or the addition of a bias.
    fn chain(
        &self,
        linear: &Linear,
        train: &Train,
        factors: &[Ref],
        bias: Option<Ref>,
        patch: &mut Patch,
    ) -> Option<()> {
        let graph = &self.scene.model.graph;
        let node = graph.node(linear.node)?;
        let output = graph.name_of(node.output(0)?);
        let lead = self.scene.facts.fact(linear.input).shape()?.len().checked_sub(1)?;
        let named = |part: &str| if node.name.is_empty() { String::new() } else { format!("{}_{part}", node.name) };
        let shape = |patch: &mut Patch, part: &str, sizes: &[usize]| -> Ref {
            // 0 leaves an axis as it is.
            let all = std::iter::repeat_n(0, lead).chain(sizes.iter().map(|&n| n as i64));
            patch.constant(format!("{output}_{part}_shape"), Tensor::ints(&all.collect::<Vec<i64>>()))
        };
        let mut value = Ref::from(linear.input);
        for (k, (core, &factor)) in train.cores.iter().zip(factors).enumerate().rev() {
            let (left, others) = train.cores.split_at_checked(k)?;
            let right = others.get(1..)?;
            let before: usize = left.iter().map(|c| c.mode.input).product();
            let behind: usize = right.iter().map(|c| c.mode.output).product();
            let (rows, from) = (format!("rows_{k}"), format!("core_{k}"));
            let mut sizes = if k > 0 { vec![before] } else { Vec::new() };
            sizes.push(core.mode.input * core.behind);
            sizes.extend((!right.is_empty()).then_some(behind));
            let sizes = shape(patch, &rows, &sizes);
            let read = patch.node(OpName::onnx("Reshape"), [value, sizes]).name(named(&rows));
            let read = read.output(format!("{output}_{rows}"), None);
            let operands = if right.is_empty() { [read, factor] } else { [factor, read] };
            let made = patch.node(OpName::onnx("MatMul"), operands).name(named(&from));
            value = made.output(format!("{output}_{from}"), None);
        }
        let sizes = shape(patch, "row", &[self.outputs]);
        let added = bias.or_else(|| node.input(2).map(Ref::from));
        let (op, inputs) = match added {
            None => ("Reshape", [value, sizes]),
            Some(bias) => {
                let whole = patch.node(OpName::onnx("Reshape"), [value, sizes]).name(named("row"));
                ("Add", [whole.output(format!("{output}_row"), None), bias])
            }
        };
        patch.set_op(linear.node, OpName::onnx(op));
        patch.set_attrs(linear.node, Attrs::new());
        for (slot, input) in inputs.into_iter().enumerate() {
            patch.set_input(linear.node, slot, Some(input));
        }
        if node.input(2).is_some() {
            patch.set_input(linear.node, 2, None);
        }
        Some(())
    }

    /// A core as the matrix that the rows' digits are multiplied with: from the right the last one, from the left the others.
    fn factor(&self, core: &Core, is_last: bool) -> Result<Tensor, TensorError> {
        let Mode { input, output } = core.mode;
        let (rows, columns) = (core.before * output, input * core.behind);
        let dims = if is_last { [columns, rows] } else { [rows, columns] };
        let turned = is_last.then(|| permuted(&core.values, &[rows, columns], &[1, 0]));
        let values = turned.as_deref().unwrap_or(&core.values);
        Tensor::from_f64_as(self.like.dtype(), dims.map(|d| d as u64).as_slice(), values)
    }
}

impl Readers for Chains<'_> {
    fn modes(&self, count: usize) -> Option<Vec<Mode>> {
        // What is small of the inputs goes with what is large of the outputs, so that all cores are about as large.
        let pairs = digits(self.inputs, count)?.into_iter().zip(digits(self.outputs, count)?.into_iter().rev());
        Some(pairs.map(|(input, output)| Mode { input, output }).collect())
    }

    fn matrix(&self, _: &[Mode]) -> Result<Mat<f64>, String> {
        let first = self.linears.first().ok_or("nothing reads it")?;
        Ok(first.matrices(self.like).map_err(|e| e.to_string())?.swap_remove(0))
    }

    fn reads(&self) -> Option<Reads> {
        let first = self.linears.first()?;
        let values = self.linears.iter().map(|l| l.input).collect();
        // Nodes that share a weight read rows of different means.
        let centred = matches!(self.linears.as_slice(), [l] if l.bias != Bias::None);
        Some(Reads { values, rows: first.rows.clone(), width: self.inputs, centred })
    }

    fn gain(&self) -> Gain {
        Gain::Time
    }

    fn cost(&self, places: &[Place]) -> Cost {
        places.iter().fold(Cost::default(), |cost, p| {
            let (read, written) = (elements(&p.input), elements(&p.output));
            let parameters = (self.inputs as u64).saturating_mul(self.outputs as u64);
            cost.stage(parameters, written.saturating_mul(self.inputs as u64), read.saturating_add(written))
        })
    }

    fn cost_of(&self, places: &[Place], modes: &[Mode], ranks: &[usize]) -> Cost {
        let size = |modes: &[Mode], of: fn(&Mode) -> usize| modes.iter().map(of).product::<usize>() as u64;
        let bond = |k: usize| k.checked_sub(1).and_then(|k| ranks.get(k)).copied().unwrap_or(1) as u64;
        places.iter().fold(Cost::default(), |mut cost, p| {
            let rows = elements(&p.output) / (self.outputs as u64).max(1);
            for (k, mode) in modes.iter().enumerate().rev() {
                let (left, right) = (modes.get(..k).unwrap_or_default(), modes.get(k + 1..).unwrap_or_default());
                // For each of these a vector is multiplied by the core.
                let times = rows.saturating_mul(size(left, |m| m.input)).saturating_mul(size(right, |m| m.output));
                let (made, read) = (bond(k) * mode.output as u64, mode.input as u64 * bond(k + 1));
                let moved = times.saturating_mul(made.saturating_add(read));
                cost = cost.stage(made * read, times.saturating_mul(made * read), moved).stage(0, 0, 0);
            }
            cost.stage(0, 0, 0)
        })
    }

    fn emit(&self, train: &Train, lost: Option<&[f64]>, patch: &mut Patch) -> Result<(), String> {
        let error = |e: TensorError| e.to_string();
        let graph = &self.scene.model.graph;
        let weight = self.linears.first().map(|l| l.weight).ok_or("nothing reads it")?;
        let name = graph.name_of(weight);
        let mut factors = Vec::new();
        for (k, core) in train.cores.iter().enumerate() {
            let tensor = self.factor(core, k + 1 == train.cores.len()).map_err(error)?;
            factors.push(patch.constant(format!("{name}_core_{k}"), tensor));
        }
        for linear in &self.linears {
            let mut bias = None;
            match (lost, linear.bias) {
                (Some(lost), Bias::Absent(_)) => {
                    let dims = [lost.len() as u64];
                    let tensor = Tensor::from_f64_as(self.like.dtype(), dims.as_slice(), lost).map_err(error)?;
                    bias = Some(patch.constant(format!("{name}_bias"), tensor));
                }
                (Some(lost), _) => linear.shift_bias(graph, patch, lost).map_err(error)?,
                (None, _) => {}
            }
            self.chain(linear, train, &factors, bias, patch).ok_or("a node is missing")?;
        }
        Ok(())
    }
}
