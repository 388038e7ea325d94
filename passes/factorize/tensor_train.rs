//! Store tables of embeddings and large matrices as trains of small cores (tensor train).
//!
//! Before     y = Gather (table, ids)                                     table is 30522 x 768
//! After      i = Div (ids, 175);  j = Mod (ids, 175)                     ids = 175 i + j
//!            y = Reshape (MatMul (Gather (c, i), Gather (d, j)))         c is 175 x 32 x 64, d is 175 x 64 x 24
//! Before     y = MatMul (x, w)                                           w is 768 x 3072
//! After      h = MatMul (Reshape (x), d)                                 rows of x are 24 x 32, d is 32 x (64 x 48)
//!            y = Reshape (MatMul (c, Reshape (h)))                       c is 64 x (24 x 64), rows of y are 64 x 48
//! When       Gather of rows of a constant table, if the cores are smaller; MatMul and Gemm with constant weights, if they are faster by the
//!            cost model; two cores or three
//! Refuses    sizes without divisors near each other · scaled or transposed Gemm · weights that are quantized already, or that a subgraph reads,
//!            or that are table and matrix at once
//! Numerics   Lossy: the report gives the error of each layer, and with calibration data that of the model's outputs on samples that the
//!            fit has not seen
//! Reference  Oseledets: Tensor-train decomposition, SIAM J. Sci. Comput. 2011; Novikov et al.: Tensorizing neural networks, NeurIPS 2015;
//!            tables: Hrinchuk et al.: Tensorized embedding layers, Findings of EMNLP 2020
//!
//! With calibration data the cores of matrices lose least of what the layer computes (`whiten: false` for the weights), and its bias takes
//! up the mean of what is lost; cores with more than 2048 unknowns for each output stay as they were cut from the weights. At indices out of
//! range, where Gather fails, some row is picked. Trained tables and matrices are seldom near such a product: at the same size, `low-rank` loses less of most
//! matrices, and `quantize-weights` of all tables. It is for what has been made to be one, and for tables that have to be smaller still.

use faer::Mat;
use planish_ir::{NodeId, Patch, ValueId};

use super::{
    chains::Chains,
    lookups::Lookups,
    method::{Choice, Cost, Decomposed, Gain, Known, Layer, Method, Place, Reads, Scene, times, total},
    rank::{Own, Rule, thinned},
    train::{Cut, Mode, Train, most, unfolded},
};
use crate::Skip;

splitting_pass!(TensorTrain, Trains);

/// Numbers of cores that are tried.
const CORES: [usize; 2] = [2, 3];
/// Ranks that are tried for a budget, for each number of cores.
const RANKS: usize = 8;

/// Trains of cores.
pub(super) struct Trains;

impl Method for Trains {
    fn layer<'a>(&self, scene: &Scene<'a>, weight: ValueId, nodes: &[NodeId]) -> Result<Box<dyn Layer + 'a>, Skip> {
        let graph = &scene.model.graph;
        let is_table = nodes.iter().any(|&id| graph.node(id).is_some_and(|n| n.op.is("Gather")));
        let readers: Box<dyn Readers + 'a> = match is_table {
            true => Box::new(Lookups::of(scene, weight, nodes)?),
            false => Box::new(Chains::of(scene, weight, nodes)?),
        };
        let sizes: Vec<Vec<Mode>> = CORES.iter().filter_map(|&count| readers.modes(count)).collect();
        match sizes.is_empty() {
            true => Err(Skip::because("its sizes have no divisors near each other")),
            false => Ok(Box::new(Matrix { scene: *scene, readers, sizes })),
        }
    }
}

/// The nodes that read a matrix.
pub(super) trait Readers: Send + Sync {
    /// What of a matrix is a digit of what, if there are so many; none if the sizes have no such divisors.
    fn modes(&self, count: usize) -> Option<Vec<Mode>>;

    /// `outputs x inputs`, with as many inputs as digits can count.
    fn matrix(&self, modes: &[Mode]) -> Result<Mat<f64>, String>;

    /// See [`Layer::reads`].
    fn reads(&self) -> Option<Reads>;

    /// What cores are for.
    fn gain(&self) -> Gain;

    /// What it costs as it is.
    fn cost(&self, places: &[Place]) -> Cost;

    /// What it costs with cores of these ranks.
    fn cost_of(&self, places: &[Place], modes: &[Mode], ranks: &[usize]) -> Cost;

    /// Puts nodes that read cores in the place of each node, and adds what is lost to their biases.
    fn emit(&self, train: &Train, lost: Option<&[f64]>, patch: &mut Patch) -> Result<(), String>;
}

/// A matrix, and what it can be cut to.
struct Matrix<'a> {
    scene: Scene<'a>,
    readers: Box<dyn Readers + 'a>,
    /// For each number of cores that there can be.
    sizes: Vec<Vec<Mode>>,
}

impl Matrix<'_> {
    /// Ranks of bonds that are tried: the same one for all of them, as far as they have so many.
    fn candidates(&self, modes: &[Mode], places: &[Place]) -> Vec<Vec<usize>> {
        let settings = self.scene.settings;
        let bonds = most(modes);
        let largest = bonds.iter().copied().max().unwrap_or(1);
        let of = |rank: usize| bonds.iter().map(|&b| b.min(rank)).collect::<Vec<usize>>();
        match self.scene.rule {
            Rule::Own(own) => {
                let rank = own.most((largest, largest));
                vec![of(settings.rounded(rank, largest))]
            }
            Rule::Budget(_) => {
                let gain = self.readers.gain();
                let whole = gain.of(&self.readers.cost(places));
                let pays = |rank: &usize| gain.of(&self.readers.cost_of(places, modes, &of(*rank))) < whole;
                let all: Vec<usize> = settings.grid(largest).into_iter().take_while(pays).collect();
                thinned(all, RANKS).into_iter().map(of).collect()
            }
        }
    }
}

impl Layer for Matrix<'_> {
    fn reads(&self) -> Option<Reads> {
        self.readers.reads()
    }

    fn gain(&self) -> Gain {
        self.readers.gain()
    }

    fn cost(&self, places: &[Place]) -> Cost {
        self.readers.cost(places)
    }

    fn decompose<'s>(&'s self, known: &Known<'_>) -> Result<Box<dyn Decomposed + 's>, String> {
        const BROKEN: &str = "its weights, or what it reads, are not finite";
        let moments = known.moments.map(|m| &m.matrix);
        let (mut found, mut mean) = (Vec::new(), None);
        for modes in &self.sizes {
            let by_spectrum = matches!(self.scene.rule, Rule::Own(Own::Energy(_) | Own::Evbmf));
            if known.ranks.is_some_and(|ranks| ranks.len() + 1 != modes.len()) {
                continue;
            }
            let given = || Ok(vec![self.readers.matrix(modes)?]);
            let weights = known.weights(given)?.pop().ok_or("nothing reads it")?;
            let unfolded = unfolded(weights.as_ref(), modes);
            let train = |cut: Cut<'_>| {
                let mut train = Train::cut(&unfolded, modes, cut)?;
                if let Some(moments) = moments {
                    train.fit(weights.as_ref(), moments);
                }
                let error = train.error(weights.as_ref(), moments);
                error.is_finite().then_some((train, error))
            };
            let tried = match (known.ranks, self.scene.rule) {
                (Some(ranks), _) => vec![train(Cut::At(ranks))],
                (None, Rule::Own(own)) if by_spectrum => vec![train(Cut::By(own))],
                (None, _) => self.candidates(modes, known.places).iter().map(|r| train(Cut::At(r))).collect(),
            };
            found.extend(tried.into_iter().collect::<Option<Vec<_>>>().ok_or(BROKEN)?);
            mean = known.moments.and_then(|m| m.mean.clone()).map(|mean| (mean, weights));
        }
        let choice = |(train, error): &(Train, f64)| Choice {
            ranks: train.ranks(),
            cost: self.readers.cost_of(known.places, &train.modes(), &train.ranks()),
            energy: (1.0 - error).max(0.0),
            error: *error,
        };
        let options = found.iter().map(choice).collect();
        let trains = found.into_iter().map(|f| f.0).collect();
        Ok(Box::new(Pieces { matrix: self, options, trains, mean, shift: known.shift() }))
    }
}

/// A matrix in cores, in several ways.
struct Pieces<'a> {
    matrix: &'a Matrix<'a>,
    options: Vec<Choice>,
    trains: Vec<Train>,
    /// Mean of the inputs, and the matrix.
    mean: Option<(Vec<f64>, Mat<f64>)>,
    /// What is added to the biases besides.
    shift: Vec<f64>,
}

impl Decomposed for Pieces<'_> {
    fn options(&self) -> &[Choice] {
        &self.options
    }

    fn emit(&self, ranks: &[usize], patch: &mut Patch) -> Result<(), String> {
        let train = self.trains.iter().find(|t| t.ranks() == ranks);
        let train = train.ok_or_else(|| format!("ranks of {ranks:?} were not decomposed"))?;
        let lost = self.mean.as_ref().map(|(mean, weights)| times((weights - train.matrix()).as_ref(), mean));
        self.matrix.readers.emit(train, total(lost, &self.shift).as_deref(), patch)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rank::Factorization;
    use super::{
        super::testing::{check_calibrated, check_with},
        *,
    };
    use crate::{
        Target, Tensors,
        testing::{drawn, refusals_for},
    };

    fn at_rank(rank: u64) -> TensorTrain {
        TensorTrain(Factorization { rank: Some(rank), round_to: 1, ..Factorization::default() })
    }

    fn model(body: &str) -> String {
        format!("<ir_version: 8, opset_import: [\"\" : 17]> {body}")
    }

    #[test]
    fn table_of_embeddings() {
        let text = "g (int64[B,S] ids) => (float[B,S,96] y) <float[1000,96] table> { y = Gather (table, ids) }";
        insta::assert_snapshot!(check_with(at_rank(4), &model(text)));
    }

    #[test]
    fn matrices_keep_their_biases() {
        let text = "g (float[B,S,256] x, float[64,256] v) => (float[B,S,512] y, float[64,512] z)
            <float[256,512] w, float[512] b, float[512,256] u> {
            p = MatMul (x, w) y = Add (p, b)
            z = Gemm <transB = 1> (v, u, b)
        }";
        insta::assert_snapshot!(check_with(at_rank(4), &model(text)));
    }

    #[test]
    fn with_samples_the_bias_takes_up_the_mean() {
        let samples: Vec<Tensors> =
            (0..4).map(|i| Tensors::from([("x".to_owned(), drawn(&format!("x{i}"), &[64, 256]))])).collect();
        let text = "g (float[N,256] x) => (float[N,256] y) <float[256,256] w> { y = Gemm (x, w) }";
        insta::assert_snapshot!(check_calibrated(at_rank(4), Target::Generic, &samples, &model(text)));
    }

    #[test]
    fn what_is_left_alone() {
        let reasons = |body: &str| refusals_for(at_rank(2), Target::Generic, &model(body));
        insta::assert_debug_snapshot!(reasons(
            "g (float[N,97] x) => (float[N,61] y) <float[97,61] w> { y = MatMul (x, w) }"
        ));
        insta::assert_debug_snapshot!(reasons(
            "g (int64[N] i) => (float[N,1000] z) <float[1000,96] t, float[96,1000] w> {
                y = Gather (t, i) u = Transpose <perm = [1, 0]> (t) z = MatMul (y, u)
            }"
        ));
        insta::assert_debug_snapshot!(reasons(
            "g (float[N,256] x) => (float[N,256] y) <float[256,256] w> { y = Gemm <alpha = 0.5> (x, w) }"
        ));
        insta::assert_debug_snapshot!(reasons(
            "g (int64[N] i) => (float[96,N] y) <float[96,1000] t> { y = Gather <axis = 1> (t, i) }"
        ));
    }
}
