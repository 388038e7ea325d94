//! Split matrices into two factors of low rank, chosen by what it does to the outputs.
//!
//! Before     y = MatMul (x, w)                          w is 768 x 3072
//! After      h = MatMul (x, a);  y = MatMul (h, w')     a is 768 x 256, w' is 256 x 3072
//! Before     q = MatMul (x, u);  k = MatMul (x, v)
//! After      h = MatMul (x, a);  q = MatMul (h, u');  k = MatMul (h, v')      where a factor in common loses less
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
    method::{Choice, Cost, Decomposed, Known, Layer, Method, Place, Reads, Scene, elements, times, total},
    rank::{Rule, Spectrum},
    svd::{dot, principal},
};
use crate::{Bias, Linear, Skip};
use faer::Mat;
use planish_ir::{Dim, NodeId, Patch, Ref, Tensor, TensorError, TensorType, Type, ValueId};

splitting_pass!(LowRank, Matrices);

/// Two factors of a matrix.
pub(super) struct Matrices;

/// A matrix, or several that are multiplied with the same rows and stand on top of each other.
struct Matrix<'a> {
    scene: Scene<'a>,
    parts: Vec<Part<'a>>,
    width: usize,
}

/// A weight, and the nodes that multiply by it: one, if there are other parts.
struct Part<'a> {
    linears: Vec<Linear>,
    like: &'a Tensor,
    outputs: usize,
}

impl Method for Matrices {
    fn layer<'a>(&self, scene: &Scene<'a>, weight: ValueId, nodes: &[NodeId]) -> Result<Box<dyn Layer + 'a>, Skip> {
        let (part, width) = Part::of(scene, weight, nodes)?;
        Ok(Box::new(Matrix { scene: *scene, parts: vec![part], width }))
    }

    fn together<'a>(&self, scene: &Scene<'a>, weights: &[ValueId], nodes: &[NodeId]) -> Option<Box<dyn Layer + 'a>> {
        let part = |(&weight, &node): (&ValueId, &NodeId)| Part::of(scene, weight, &[node]).ok();
        let found: Vec<(Part<'a>, usize)> = weights.iter().zip(nodes).map(part).collect::<Option<_>>()?;
        let (parts, widths): (Vec<Part<'a>>, Vec<usize>) = found.into_iter().unzip();
        let &width = widths.first()?;
        let is_same = widths.iter().all(|w| *w == width);
        is_same.then(|| Box::new(Matrix { scene: *scene, parts, width }) as Box<dyn Layer + 'a>)
    }
}

impl<'a> Part<'a> {
    /// And how wide its rows are.
    fn of(scene: &Scene<'a>, weight: ValueId, nodes: &[NodeId]) -> Result<(Part<'a>, usize), Skip> {
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
        Ok((Part { linears, like, outputs }, width))
    }

    /// `outputs x width`.
    fn weights(&self) -> Result<Mat<f64>, String> {
        let first = self.linears.first().ok_or("nothing reads it")?;
        Ok(first.matrices(self.like).map_err(|e| e.to_string())?.swap_remove(0))
    }

    /// Shapes of the factors, as they are stored: in front and behind.
    fn dims(&self, width: usize, rank: usize) -> [Vec<u64>; 2] {
        let (width, rank, outputs) = (width as u64, rank as u64, self.outputs as u64);
        let is_out_in = self.linears.first().is_some_and(Linear::is_out_in);
        match (is_out_in, self.like.dims().get(2..)) {
            (true, Some(window)) => {
                let channels = self.like.dims().get(1).copied().unwrap_or(width);
                let inner = [rank, channels].into_iter().chain(window.iter().copied()).collect();
                [inner, [outputs, rank].into_iter().chain(window.iter().map(|_| 1)).collect()]
            }
            _ => [vec![width, rank], vec![rank, outputs]],
        }
    }

    /// Makes a node read what the factor in front makes, and adds what is lost to its bias.
    fn behind(
        &self,
        scene: &Scene<'_>,
        linear: &Linear,
        narrow: Ref,
        lost: Option<&[f64]>,
        patch: &mut Patch,
    ) -> Result<(), TensorError> {
        let graph = &scene.model.graph;
        let Some(node) = graph.node(linear.node) else { return Ok(()) };
        // The order of the operand and the window stay with the product that has it.
        let mut attrs = node.attrs.clone();
        ["transA", "strides", "pads", "dilations", "auto_pad"].iter().for_each(|a| drop(attrs.remove(a)));
        if node.op.is("Conv") && attrs.ints("kernel_shape").is_some() {
            attrs.set("kernel_shape", vec![1i64; self.like.rank().saturating_sub(2)].into());
        }
        patch.set_input(linear.node, 0, Some(narrow));
        if !node.op.is("MatMul") {
            patch.set_attrs(linear.node, attrs);
        }
        match lost {
            Some(lost) => linear.shift_bias(graph, patch, lost),
            None => Ok(()),
        }
    }
}

impl Matrix<'_> {
    fn outputs(&self) -> usize {
        self.parts.iter().map(|p| p.outputs).sum()
    }

    /// The mean of the rows can be taken up by biases.
    fn is_centred(&self) -> bool {
        // Nodes that share a weight read rows of different means.
        self.parts.iter().all(|p| matches!(p.linears.as_slice(), [l] if l.bias != Bias::None))
    }

    /// The parts with the places of their nodes.
    fn placed<'s>(&'s self, places: &'s [Place]) -> impl Iterator<Item = (&'s Part<'s>, &'s [Place])> {
        let each = if self.parts.len() == 1 { places.len().max(1) } else { 1 };
        self.parts.iter().zip(places.chunks(each))
    }

    fn split_cost(&self, places: &[Place], rank: usize) -> Cost {
        let (width, rank) = (self.width as u64, rank as u64);
        let mut cost = Cost::default();
        for (at, (part, places)) in self.placed(places).enumerate() {
            let outputs = part.outputs as u64;
            for p in places {
                let (read, written) = (elements(&p.input), elements(&p.output));
                let rows = written / outputs.max(1);
                let inner = rows.saturating_mul(rank);
                if at == 0 {
                    cost = cost.stage(width * rank, inner.saturating_mul(width), read.saturating_add(inner));
                }
                cost = cost.stage(outputs * rank, inner.saturating_mul(outputs), written.saturating_add(inner));
            }
        }
        cost
    }
}

impl Layer for Matrix<'_> {
    fn reads(&self) -> Option<Reads> {
        let linears = &self.parts.first()?.linears;
        let first = linears.first()?;
        let values = linears.iter().map(|l| l.input).collect();
        Some(Reads { values, rows: first.rows.clone(), width: self.width, centred: self.is_centred() })
    }

    fn cost(&self, places: &[Place]) -> Cost {
        let width = self.width as u64;
        let places = self.placed(places).flat_map(|(part, places)| places.iter().map(move |p| (part, p)));
        places.fold(Cost::default(), |cost, (part, p)| {
            let (read, written) = (elements(&p.input), elements(&p.output));
            let moved = read.saturating_add(written);
            cost.stage(part.outputs as u64 * width, written.saturating_mul(width), moved)
        })
    }

    fn decompose<'s>(&'s self, known: &Known<'_>) -> Result<Box<dyn Decomposed + 's>, String> {
        let parts = known.weights(|| self.parts.iter().map(Part::weights).collect())?;
        let moments = known.moments.map(|m| &m.matrix);
        let (weights, scales) = stacked(&parts, moments);
        let (outputs, width) = (self.outputs(), self.width);
        if weights.shape() != (outputs, width) {
            return Err("its weights are not all there".to_owned());
        }
        // Above this rank the factors have more elements than the matrix.
        let even = (outputs * width).saturating_sub(1) / (outputs + width).max(1);
        let settings = self.scene.settings;
        let wanted = known.ranks.and_then(|r| r.first().copied());
        let most = match (wanted, self.scene.rule) {
            (Some(rank), _) => rank,
            (None, Rule::Budget(_)) => even,
            (None, Rule::Own(own)) => settings.rounded(own.most((outputs, width)), outputs.min(width)),
        };
        let found = principal(weights.as_ref(), moments, most).ok_or("its weights or what it reads are not finite")?;
        let ranks = match (wanted, self.scene.rule) {
            (Some(rank), _) => vec![rank],
            (None, Rule::Budget(_)) => settings.grid(even),
            (None, Rule::Own(own)) => {
                let spectrum = Spectrum { squares: &found.squares, power: found.power, shape: (outputs, width) };
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
        let scale = |o: usize| scales.get(o).copied().unwrap_or(1.0);
        let means = known.moments.and_then(|m| m.mean.clone());
        // What the whole matrix makes of the mean.
        let whole = means.as_ref().map(|m| times(weights.as_ref(), m));
        let whole = whole.map(|w| w.iter().enumerate().map(|(o, y)| y / scale(o)).collect());
        Ok(Box::new(Factors {
            matrix: self,
            options,
            left: Mat::from_fn(left.nrows(), left.ncols(), |o, r| (left[(o, r)] / scale(o)) as f32),
            right: Mat::from_fn(right.nrows(), right.ncols(), |r, i| right[(r, i)] as f32),
            mean: means.zip(whole),
            shift: known.shift(),
        }))
    }
}

/// Matrices on top of each other, and what each row is multiplied by: several are to count alike, however large what they compute is.
fn stacked(parts: &[Mat<f64>], moments: Option<&Mat<f64>>) -> (Mat<f64>, Vec<f64>) {
    if let [one] = parts {
        return (one.clone(), Vec::new());
    }
    let power =
        |w: &Mat<f64>| moments.map_or_else(|| dot(w.as_ref(), w.as_ref()), |g| dot((w * g).as_ref(), w.as_ref()));
    let width = parts.first().map_or(0, Mat::ncols);
    let (mut rows, mut scales) = (Vec::new(), Vec::new());
    for part in parts {
        let power = power(part);
        let scale = if power > 0.0 { power.sqrt().recip() } else { 1.0 };
        rows.extend((0..part.nrows()).map(|o| (part, o)));
        scales.extend((0..part.nrows()).map(|_| scale));
    }
    let element = |o: usize, i: usize| rows.get(o).map_or(0.0, |(part, r): &(&Mat<f64>, usize)| part[(*r, i)]);
    let value = |o: usize, i: usize| element(o, i) * scales.get(o).unwrap_or(&1.0);
    (Mat::from_fn(rows.len(), width, value), scales)
}

/// A matrix as a product.
struct Factors<'a> {
    matrix: &'a Matrix<'a>,
    options: Vec<Choice>,
    /// `outputs x rank`.
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
        if rank > self.left.ncols() {
            return Err(format!("a rank of {rank} was not decomposed"));
        }
        let left = Mat::from_fn(self.left.nrows(), rank, |o, r| f64::from(self.left[(o, r)]));
        let right = Mat::from_fn(rank, self.right.ncols(), |r, i| f64::from(self.right[(r, i)]));
        // What is lost of the mean.
        let lost = self.mean.as_ref().map(|(mean, whole)| {
            let kept = times(left.as_ref(), &times(right.as_ref(), mean));
            whole.iter().zip(kept).map(|(w, k)| w - k).collect::<Vec<f64>>()
        });
        self.matrix.emit(&left, right, total(lost, &self.shift).as_deref(), patch).map_err(|e| e.to_string())
    }
}

impl Matrix<'_> {
    /// The first factor becomes a node of its own, the second the weights of the nodes that there are.
    fn emit(
        &self,
        left: &Mat<f64>,
        right: Mat<f64>,
        lost: Option<&[f64]>,
        patch: &mut Patch,
    ) -> Result<(), TensorError> {
        let graph = &self.scene.model.graph;
        let Some((first, lead)) = self.parts.first().and_then(|p| Some((p, p.linears.first()?))) else { return Ok(()) };
        let (rank, dtype) = (left.ncols(), first.like.dtype());
        let [inner, _] = first.dims(self.width, rank);
        let name = graph.name_of(lead.weight);
        let right = patch.constant(format!("{name}_in"), lead.tensor_of(&[right], dtype, &inner)?);
        let (mut at, mut shared) = (0, None);
        for part in &self.parts {
            let Some(linear) = part.linears.first() else { continue };
            let rows = at..at + part.outputs;
            let own = Mat::from_fn(part.outputs, rank, |o, r| left[(rows.start + o, r)]);
            let [_, outer] = part.dims(self.width, rank);
            patch.set_tensor(linear.weight, linear.tensor_of(&[own], part.like.dtype(), &outer)?);
            let lost = lost.and_then(|l| l.get(rows.clone()));
            for linear in &part.linears {
                let narrow = shared.or_else(|| self.in_front(linear, right, rank as u64, patch));
                let Some(narrow) = narrow else { continue };
                if self.parts.len() > 1 {
                    shared = Some(narrow);
                }
                part.behind(&self.scene, linear, narrow, lost, patch)?;
            }
            at = rows.end;
        }
        Ok(())
    }

    /// The node of the first factor.
    fn in_front(&self, linear: &Linear, right: Ref, rank: u64, patch: &mut Patch) -> Option<Ref> {
        let graph = &self.scene.model.graph;
        let node = graph.node(linear.node)?;
        let mut attrs = node.attrs.clone();
        // Scales stay with the sum that they belong to.
        ["alpha", "beta"].iter().for_each(|a| drop(attrs.remove(a)));
        let place = node.output(0).map_or_else(|| linear.node.to_string(), |v| graph.name_of(v));
        let ty = node.output(0).and_then(|v| self.inner_type(v, linear.channel_axis, rank));
        let mut builder = patch.node(node.op.clone(), [Some(linear.input.into()), Some(right)]).attrs(attrs);
        if !node.name.is_empty() {
            builder = builder.name(format!("{}_in", node.name));
        }
        Some(builder.output(format!("{place}_in"), ty))
    }

    /// The type of what is between the factors: that of an output, with other channels.
    fn inner_type(&self, output: ValueId, channel_axis: i64, rank: u64) -> Option<Type> {
        let Type::Tensor(TensorType { dtype, shape: Some(mut shape) }) = self.scene.facts.ty(output)?.clone() else {
            return None;
        };
        // The rows of a matrix that is read transposed lie in order in the output.
        let is_flat = self.parts.first().is_some_and(|p| p.like.rank() == 2);
        let axis = if is_flat { -1 } else { channel_axis };
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
    fn a_bias_that_another_layer_reads_too_takes_up_the_mean() {
        let samples: Vec<Tensors> =
            (0..4).map(|i| Tensors::from([("x".to_owned(), drawn(&format!("x{i}"), &[64, 128]))])).collect();
        let before = model(
            "g (float[N,128] x) => (float[N,128] y) <float[128,128] w, float[128,128] v, float[128] b> {
                h = Gemm (x, w, b) y = Gemm (h, v, b)
            }",
        );
        let after = crate::testing::check_calibrated(at_rank(8), Target::Generic, &samples, &before);
        let digest = |text: &str, bias: &str| {
            let declared = |l: &str| {
                let (tensor, digest) = l.split_once("  # ")?;
                (tensor.trim_matches([' ', ',']) == format!("float[128] {bias}")).then(|| digest.to_owned())
            };
            text.lines().find_map(declared)
        };
        let printed = planish_ir::text::print(&crate::testing::parse(&before));
        let biases = [digest(&printed, "b"), digest(&after, "b"), digest(&after, "b_own")];
        let different: std::collections::BTreeSet<_> = biases.iter().flatten().collect();
        assert_eq!(different.len(), 3, "{biases:?}");
    }

    /// Of what they read, one factor has room for 8 directions at this budget, and three have not.
    const BESIDE: &str = "g (float[N,16] x) => (float[N,256] q, float[N,256] k, float[N,256] v)
        <float[16,256] e, float[256,256] wq, float[256,256] wk, float[256,256] wv, float[256] b> {
            h = MatMul (x, e)
            p = MatMul (h, wq) q = Add (p, b)
            [keys] k = MatMul (h, wk)
            v = MatMul (h, wv)
        }";

    #[test]
    fn matrices_beside_each_other_share_a_factor() {
        let samples: Vec<Tensors> =
            (0..4).map(|i| Tensors::from([("x".to_owned(), drawn(&format!("x{i}"), &[64, 16]))])).collect();
        let protect = vec!["e".to_owned()];
        let budget = LowRank(Factorization { params: Some(0.05), protect, ..Factorization::default() });
        insta::assert_snapshot!(check_calibrated(budget, Target::Generic, &samples, &model(BESIDE)));
    }

    #[test]
    fn a_rank_that_is_asked_for_is_that_of_each_matrix() {
        let split = check_with(at_rank(8), &model(BESIDE));
        assert_eq!(split.matches("_in = MatMul (h,").count(), 3, "{split}");
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
