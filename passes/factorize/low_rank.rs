//! Split matrices into two factors of low rank, chosen by what it does to the outputs.
//!
//! Before     y = MatMul (x, w)                          w is 768 x 3072
//! After      h = MatMul (x, a);  y = MatMul (h, w')     a is 768 x 256, w' is 256 x 3072
//! When       MatMul, Gemm and Conv of the main graph with constant weights, whose factors are faster by the cost model
//! Refuses    convolutions in groups · weights that are quantized already, or that a subgraph reads
//! Numerics   Lossy: the report gives the error of each layer, and with calibration data that of the model's outputs on samples that the
//!            fit has not seen
//! Reference  Eckart, Young: The approximation of one matrix by another of lower rank, Psychometrika 1936; whitened by activations: Wang et
//!            al.: SVD-LLM, ICLR 2025; convolutions: Zhang et al.: Accelerating very deep convolutional networks, TPAMI 2016
//!
//! With calibration data the factors lose least of what the layer computes (`whiten: false` for the weights), and its bias takes up the
//! mean of what is lost. The bias stays with the second factor; strides and pads go to the first.

use super::{
    method::{Choice, Cost, Decomposed, Known, Layer, Method, Place, Reads, Scene, elements, total},
    rank::{Rule, Spectrum},
    svd::principal,
};
use crate::{Bias, Linear, Skip};
use faer::{Mat, MatRef};
use planish_ir::{Dim, NodeId, Patch, Tensor, TensorError, TensorType, Type, ValueId};

splitting_pass!(LowRank, Matrices);

/// Two factors of a matrix.
pub(super) struct Matrices;

/// A matrix, and the nodes that multiply by it.
struct Matrix<'a> {
    scene: Scene<'a>,
    linears: Vec<Linear>,
    like: &'a Tensor,
    /// Outputs and width.
    shape: (usize, usize),
}

impl Method for Matrices {
    fn layer<'a>(&self, scene: &Scene<'a>, weight: ValueId, nodes: &[NodeId]) -> Result<Box<dyn Layer + 'a>, Skip> {
        let graph = &scene.model.graph;
        let linear = |&id: &NodeId| Linear::of(graph, id).filter(|l| l.weight == weight);
        let linears: Vec<Linear> = nodes.iter().map(linear).collect::<Option<_>>().ok_or(Skip::NoMatch)?;
        let (Some(first), Some(like)) = (linears.first(), graph.constant(weight)) else { return Err(Skip::NoMatch) };
        if first.groups() != 1 {
            return Err(Skip::because("a convolution in groups has no one matrix"));
        }
        // The first factor is a Gemm without a bias.
        let is_gemm = graph.node(first.node).is_some_and(|n| n.op.is("Gemm"));
        if is_gemm && scene.model.opsets.get("").is_none_or(|&v| v < 11) {
            return Err(Skip::because("Gemm needs a bias up to opset 10; raise-opset raises it"));
        }
        let op = |l: &Linear| graph.node(l.node).map(|n| n.op.clone());
        if linears.iter().any(|l| op(l) != op(first) || !l.has_layout_of(first) || l.rows != first.rows) {
            return Err(Skip::because("the nodes that read its weights do not read them in the same way"));
        }
        let width = first.width(like).unwrap_or(0).max(1);
        let outputs = usize::try_from(like.elements()).unwrap_or(0) / width;
        Ok(Box::new(Matrix { scene: *scene, linears, like, shape: (outputs, width) }))
    }
}

impl Matrix<'_> {
    /// The mean of the rows can be taken up by a bias.
    fn is_centred(&self) -> bool {
        // Nodes that share a weight read rows of different means.
        matches!(self.linears.as_slice(), [l] if l.bias != Bias::None)
    }

    fn split_cost(&self, places: &[Place], rank: usize) -> Cost {
        let (outputs, width, rank) = (self.shape.0 as u64, self.shape.1 as u64, rank as u64);
        places.iter().fold(Cost::default(), |cost, p| {
            let (read, written) = (elements(&p.input), elements(&p.output));
            let rows = written / outputs.max(1);
            let inner = rows.saturating_mul(rank);
            cost.stage(width * rank, inner.saturating_mul(width), read.saturating_add(inner)).stage(
                outputs * rank,
                inner.saturating_mul(outputs),
                written.saturating_add(inner),
            )
        })
    }
}

impl Layer for Matrix<'_> {
    fn reads(&self) -> Option<Reads> {
        let first = self.linears.first()?;
        let values = self.linears.iter().map(|l| l.input).collect();
        Some(Reads { values, rows: first.rows.clone(), width: self.shape.1, centred: self.is_centred() })
    }

    fn cost(&self, places: &[Place]) -> Cost {
        let (outputs, width) = (self.shape.0 as u64, self.shape.1 as u64);
        places.iter().fold(Cost::default(), |cost, p| {
            let (read, written) = (elements(&p.input), elements(&p.output));
            cost.stage(outputs * width, written.saturating_mul(width), read.saturating_add(written))
        })
    }

    fn decompose<'s>(&'s self, known: &Known<'_>) -> Result<Box<dyn Decomposed + 's>, String> {
        let Some(first) = self.linears.first() else { return Err("nothing reads it".to_owned()) };
        let weights = known.weights(|| first.matrices(self.like).map_err(|e| e.to_string()))?.swap_remove(0);
        let (outputs, width) = self.shape;
        // Above this rank the factors have more elements than the matrix.
        let even = (outputs * width).saturating_sub(1) / (outputs + width).max(1);
        let settings = self.scene.settings;
        let wanted = known.ranks.and_then(|r| r.first().copied());
        let most = match (wanted, self.scene.rule) {
            (Some(rank), _) => rank,
            (None, Rule::Budget(_)) => even,
            (None, Rule::Own(own)) => settings.rounded(own.most(self.shape), outputs.min(width)),
        };
        let moments = known.moments.map(|m| &m.matrix);
        let found = principal(weights.as_ref(), moments, most).ok_or("its weights or what it reads are not finite")?;
        let ranks = match (wanted, self.scene.rule) {
            (Some(rank), _) => vec![rank],
            (None, Rule::Budget(_)) => settings.grid(even),
            (None, Rule::Own(own)) => {
                let spectrum = Spectrum { squares: &found.squares, power: found.power, shape: self.shape };
                vec![settings.rounded(own.rank(spectrum), outputs.min(width))]
            }
        };
        let option = |&rank: &usize| Choice {
            ranks: vec![rank],
            cost: self.split_cost(known.places, rank),
            energy: found.energy(rank),
            error: 1.0 - found.energy(rank),
        };
        let options: Vec<Choice> = ranks.iter().map(option).collect();
        let kept = ranks.iter().copied().max().unwrap_or(0).min(even);
        let (left, right) = found.factors(weights.as_ref(), kept);
        let means = known.moments.and_then(|m| m.mean.clone());
        // What the whole matrix makes of the mean.
        let whole = means.as_ref().map(|m| times(weights.as_ref(), m));
        let narrow = |m: Mat<f64>| Mat::from_fn(m.nrows(), m.ncols(), |i, j| m[(i, j)] as f32);
        Ok(Box::new(Factors {
            matrix: self,
            options,
            left: narrow(left),
            right: narrow(right),
            mean: means.zip(whole),
            shift: known.shift(),
        }))
    }
}

fn times(matrix: MatRef<'_, f64>, vector: &[f64]) -> Vec<f64> {
    let row = |o: usize| vector.iter().enumerate().map(|(i, x)| matrix[(o, i)] * x).sum();
    (0..matrix.nrows()).map(row).collect()
}

/// A matrix as a product.
struct Factors<'a> {
    matrix: &'a Matrix<'a>,
    options: Vec<Choice>,
    /// `outputs x rank`, orthonormal.
    left: Mat<f32>,
    /// `rank x width`.
    right: Mat<f32>,
    /// Mean of the rows, and what the matrix makes of it.
    mean: Option<(Vec<f64>, Vec<f64>)>,
    /// What is added to the biases besides.
    shift: Vec<f64>,
}

impl Decomposed for Factors<'_> {
    fn options(&self) -> &[Choice] {
        &self.options
    }

    fn emit(&self, ranks: &[usize], patch: &mut Patch) -> Result<(), String> {
        let &[rank] = ranks else { return Err("a matrix has one rank".to_owned()) };
        let (outputs, width) = self.matrix.shape;
        if rank > self.left.ncols() {
            return Err(format!("a rank of {rank} was not decomposed"));
        }
        let left = Mat::from_fn(outputs, rank, |o, r| f64::from(self.left[(o, r)]));
        let right = Mat::from_fn(rank, width, |r, i| f64::from(self.right[(r, i)]));
        // What is lost of the mean.
        let lost = self.mean.as_ref().map(|(mean, whole)| {
            let kept = times(left.as_ref(), &times(right.as_ref(), mean));
            whole.iter().zip(kept).map(|(w, k)| w - k).collect::<Vec<f64>>()
        });
        self.matrix.emit(left, right, total(lost, &self.shift).as_deref(), patch).map_err(|e| e.to_string())
    }
}

impl Matrix<'_> {
    /// The first factor becomes a node of its own, the second the weight of the nodes that there are.
    fn emit(
        &self,
        left: Mat<f64>,
        right: Mat<f64>,
        lost: Option<&[f64]>,
        patch: &mut Patch,
    ) -> Result<(), TensorError> {
        let graph = &self.scene.model.graph;
        let Some(first) = self.linears.first() else { return Ok(()) };
        let (dtype, dims, rank) = (self.like.dtype(), self.like.dims(), left.ncols() as u64);
        let (outputs, width) = (left.nrows() as u64, right.ncols() as u64);
        let (inner, outer) = match (first.is_out_in(), dims.get(2..)) {
            (true, Some(window)) => {
                let channels = dims.get(1).copied().unwrap_or(width);
                let ones = window.iter().map(|_| 1);
                let inner: Vec<u64> = [rank, channels].into_iter().chain(window.iter().copied()).collect();
                (inner, [outputs, rank].into_iter().chain(ones).collect())
            }
            _ => (vec![width, rank], vec![rank, outputs]),
        };
        let name = graph.name_of(first.weight);
        let right = patch.constant(format!("{name}_in"), first.tensor_of(&[right], dtype, &inner)?);
        patch.set_tensor(first.weight, first.tensor_of(&[left], dtype, &outer)?);
        for linear in &self.linears {
            let Some(node) = graph.node(linear.node) else { continue };
            let mut before = node.attrs.clone();
            let mut behind = node.attrs.clone();
            // Scales stay with the sum that they belong to, the order of the operand and the window with the product that has it.
            ["alpha", "beta"].iter().for_each(|a| drop(before.remove(a)));
            ["transA", "strides", "pads", "dilations", "auto_pad"].iter().for_each(|a| drop(behind.remove(a)));
            if node.op.is("Conv") && behind.ints("kernel_shape").is_some() {
                behind.set("kernel_shape", vec![1i64; outer.len().saturating_sub(2)].into());
            }
            let place = node.output(0).map_or_else(|| linear.node.to_string(), |v| graph.name_of(v));
            let ty = node.output(0).and_then(|v| self.inner_type(v, linear.channel_axis, rank));
            let mut builder = patch.node(node.op.clone(), [Some(linear.input.into()), Some(right)]).attrs(before);
            if !node.name.is_empty() {
                builder = builder.name(format!("{}_in", node.name));
            }
            let narrow = builder.output(format!("{place}_in"), ty);
            patch.set_input(linear.node, 0, Some(narrow));
            if !node.op.is("MatMul") {
                patch.set_attrs(linear.node, behind);
            }
            if let Some(lost) = lost {
                linear.shift_bias(graph, patch, lost)?;
            }
        }
        Ok(())
    }

    /// The type of what is between the factors: that of an output, with other channels.
    fn inner_type(&self, output: ValueId, channel_axis: i64, rank: u64) -> Option<Type> {
        let Type::Tensor(TensorType { dtype, shape: Some(mut shape) }) = self.scene.facts.ty(output)?.clone() else {
            return None;
        };
        // The rows of a matrix that is read transposed lie in order in the output.
        let axis = if self.like.rank() == 2 { -1 } else { channel_axis };
        let axis = planish_ir::infer::axis(axis, shape.len()).ok()?;
        *shape.get_mut(axis)? = Dim::Known(rank);
        Some(Type::Tensor(TensorType { dtype, shape: Some(shape) }))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::rank::Factorization,
        super::testing::{check_calibrated, check_with},
        *,
    };
    use crate::{
        Target, Tensors,
        testing::{drawn, refusals_for},
    };

    fn at_rank(rank: u64) -> LowRank {
        LowRank(Factorization { rank: Some(rank), ..Factorization::default() })
    }

    fn model(body: &str) -> String {
        format!("<ir_version: 8, opset_import: [\"\" : 17]> {body}")
    }

    #[test]
    fn matmul_and_its_bias() {
        insta::assert_snapshot!(check_with(
            at_rank(8),
            &model(
                "g (float[N,128] x) => (float[N,160] y) <float[128,160] w, float[160] b> { p = MatMul (x, w) y = Add (p, b) }"
            )
        ));
    }

    #[test]
    fn gemm_keeps_scales_with_the_sum_and_the_transposition_with_the_input() {
        insta::assert_snapshot!(check_with(
            at_rank(8),
            &model(
                "g (float[128,N] x) => (float[N,160] y) <float[160,128] w, float[160] b> {
                y = Gemm <alpha = 0.5, beta = 2.0, transA = 1, transB = 1> (x, w, b)
            }"
            )
        ));
    }

    #[test]
    fn convolution_keeps_its_window_in_front() {
        insta::assert_snapshot!(check_with(
            at_rank(8),
            &model(
                "g (float[N,32,12,12] x) => (float[N,48,6,6] y) <float[48,32,3,3] w, float[48] b> {
                y = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x, w, b)
            }"
            )
        ));
    }

    #[test]
    fn a_weight_that_two_nodes_read_is_factorized_once() {
        insta::assert_snapshot!(check_with(
            at_rank(8),
            &model("g (float[N,160] x) => (float[N,160] z) <float[160,160] w> { y = MatMul (x, w) z = MatMul (y, w) }")
        ));
    }

    #[test]
    fn with_samples_the_bias_takes_up_the_mean() {
        let samples: Vec<Tensors> =
            (0..4).map(|i| Tensors::from([("x".to_owned(), drawn(&format!("x{i}"), &[64, 128]))])).collect();
        insta::assert_snapshot!(check_calibrated(
            at_rank(8),
            Target::Generic,
            &samples,
            &model("g (float[N,128] x) => (float[N,160] y) <float[160,128] w> { y = Gemm <transB = 1> (x, w) }")
        ));
    }

    #[test]
    fn what_is_left_alone() {
        let reasons = |body: &str| refusals_for(at_rank(8), Target::Generic, &model(body));
        insta::assert_debug_snapshot!(reasons(
            "g (float[N,64,8,8] x) => (float[N,64,8,8] y) <float[64,32,1,1] w> { y = Conv <group = 2> (x, w) }"
        ));
        insta::assert_debug_snapshot!(reasons(
            "g (float[N,128] x) => (float[N,128] y, float[128,128] w) <float[128,128] w> { y = MatMul (x, w) }"
        ));
        insta::assert_debug_snapshot!(reasons(
            "g (float[N,128] x) => (float[N,128] y) <int8[128,128] q, float s = {0.1}> {
                w = DequantizeLinear (q, s) y = MatMul (x, w)
            }"
        ));
        // Too small, or a rank that is too large, to be faster.
        assert_eq!(reasons("g (float[N,64] x) => (float[N,64] y) <float[64,64] w> { y = MatMul (x, w) }"), [""; 0]);
    }
}
