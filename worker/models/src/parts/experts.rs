//! A mixture of experts (Shazeer et al. 2017): a router sends each token to
//! some of many gated networks.

use tensor::{Device, DeviceError, ExpertInput, Part, StoredMatrix};

use super::mxfp4::{BLOCK, BLOCK_BYTES, Mxfp4};
use super::{Linear, Loader};
use crate::checkpoint::WeightSpec;
use crate::config::{ExpertLayout, Experts, StackFormat};
use crate::error::LoadError;

pub(crate) struct MixtureOfExperts<D: Device> {
    config: Experts,
    hidden: usize,
    router: Linear<D>,
    choice_bias: Option<D::Buffer>,
    gate: Stack<D>,
    up: Stack<D>,
    down: Stack<D>,
}

/// One matrix of each expert, and perhaps their biases, `[experts, out]`.
struct Stack<D: Device> {
    weights: Vec<D::Weight>,
    bias: Option<D::Buffer>,
}

pub(crate) struct ExpertBuffers<D: Device> {
    /// `[rows, experts]`
    logits: D::Buffer,
    routes: D::Routes,
    /// `[routes, intermediate]`
    gate: D::Buffer,
    up: D::Buffer,
    /// `[routes, hidden]`
    down: D::Buffer,
}

impl<D: Device> ExpertBuffers<D> {
    /// For rows of `hidden` numbers and any of these layers.
    pub(crate) fn new<'a>(
        device: &D,
        (rows, hidden): (usize, usize),
        layers: impl Iterator<Item = &'a Experts> + Clone,
    ) -> Result<Self, DeviceError> {
        let most = |of: fn(&Experts) -> usize| layers.clone().map(of).max().unwrap_or(0);
        let routes = rows * most(|experts| experts.routing.top_k);
        let widest = most(|experts| experts.intermediate);
        Ok(ExpertBuffers {
            logits: device.buffer(rows * most(|experts| experts.routing.experts))?,
            routes: D::Routes::default(),
            gate: device.buffer(routes * widest)?,
            up: device.buffer(routes * widest)?,
            down: device.buffer(routes * hidden)?,
        })
    }
}

impl<D: Device> MixtureOfExperts<D> {
    /// The experts of the layer of this name.
    pub(crate) fn load(
        loader: &Loader<'_, D>,
        layer: &str,
        hidden: usize,
        config: &Experts,
    ) -> Result<MixtureOfExperts<D>, LoadError> {
        let experts = config.routing.experts;
        let router = format!("{layer}.{}", config.router);
        let choice_bias = |name| loader.vector(&format!("{layer}.{name}"), experts);
        let source = Source {
            loader,
            layer,
            hidden,
            config,
        };
        let [gate, up, down] = match config.layout {
            ExpertLayout::Named {
                experts,
                gate,
                up,
                down,
            } => source.named(experts, [gate, up, down])?,
            ExpertLayout::Stacked { format } => source.stacked(format)?,
        };
        Ok(MixtureOfExperts {
            config: *config,
            hidden,
            router: loader.linear(&router, (experts, hidden), config.router_bias)?,
            choice_bias: config.choice_bias.map(choice_bias).transpose()?,
            gate,
            up,
            down,
        })
    }

    pub(crate) fn hidden(&self) -> usize {
        self.hidden
    }

    /// x and out are `[rows, hidden]`.
    pub(crate) fn forward(
        &self,
        device: &D,
        (x, rows): (&D::Buffer, usize),
        buffers: &mut ExpertBuffers<D>,
        out: &mut D::Buffer,
    ) -> Result<(), DeviceError> {
        let ExpertBuffers {
            logits,
            routes,
            gate,
            up,
            down,
        } = buffers;
        let routing = &self.config.routing;
        device.part(Part::Router);
        self.router.forward(device, x, rows, logits)?;
        let logits = (&*logits, self.choice_bias.as_ref());
        device.route(routing, logits, rows, routes)?;
        device.part(Part::GateUp);
        self.gate
            .forward(device, ExpertInput::Tokens(x), routes, gate)?;
        self.up
            .forward(device, ExpertInput::Tokens(x), routes, up)?;
        let len = rows * routing.top_k * self.config.intermediate;
        device.gated(self.config.activation, gate, up, len)?;
        device.part(Part::Down);
        self.down
            .forward(device, ExpertInput::Routes(&*gate), routes, down)?;
        device.combine(down, self.hidden, routes, out)
    }
}

impl<D: Device> Stack<D> {
    fn forward(
        &self,
        device: &D,
        x: ExpertInput<'_, D::Buffer>,
        routes: &D::Routes,
        out: &mut D::Buffer,
    ) -> Result<(), DeviceError> {
        device.expert_linear(&self.weights, self.bias.as_ref(), x, routes, out)
    }
}

/// Where a layer's experts are loaded from.
struct Source<'a, D: Device> {
    loader: &'a Loader<'a, D>,
    layer: &'a str,
    hidden: usize,
    config: &'a Experts,
}

impl<D: Device> Source<'_, D> {
    /// Gate, up and down, each expert's by itself.
    fn named(&self, experts: &str, parts: [&str; 3]) -> Result<[Stack<D>; 3], LoadError> {
        let (hidden, intermediate) = (self.hidden, self.config.intermediate);
        let stack = |part, rows, cols| {
            let matrix = |index| {
                let name = format!("{}.{experts}.{index}.{part}", self.layer);
                self.loader.matrix(&name, rows, cols)
            };
            let weights = (0..self.config.routing.experts).map(matrix);
            Ok::<_, LoadError>(Stack {
                weights: weights.collect::<Result<_, _>>()?,
                bias: None,
            })
        };
        let [gate, up, down] = parts;
        Ok([
            stack(gate, intermediate, hidden)?,
            stack(up, intermediate, hidden)?,
            stack(down, hidden, intermediate)?,
        ])
    }

    /// Gate, up and down from tensors of all experts, where gate and up take
    /// turns.
    fn stacked(&self, format: StackFormat) -> Result<[Stack<D>; 3], LoadError> {
        let experts = self.config.routing.experts;
        let (hidden, intermediate) = (self.hidden, self.config.intermediate);
        let shape = |outputs, inputs| StackShape {
            experts,
            outputs,
            inputs,
        };
        let gate_up = self.stored("gate_up_proj", shape(2 * intermediate, hidden), format)?;
        let down = self.stored("down_proj", shape(hidden, intermediate), format)?;
        let gate_up_bias = self.bias("gate_up_proj_bias", experts, 2 * intermediate)?;
        let down_bias = self.bias("down_proj_bias", experts, hidden)?;
        let stack = |stored: &StoredStack, bias: &StoredMatrix, (first, step)| {
            let weight = |expert| self.loader.put(stored.matrix(expert, first, step)?);
            let bias: Vec<f32> = bias
                .to_f32()
                .into_iter()
                .skip(first)
                .step_by(step)
                .collect();
            Ok::<_, LoadError>(Stack {
                weights: (0..experts).map(weight).collect::<Result<_, _>>()?,
                bias: Some(self.loader.device.upload(&bias)?),
            })
        };
        Ok([
            stack(&gate_up, &gate_up_bias, (0, 2))?,
            stack(&gate_up, &gate_up_bias, (1, 2))?,
            stack(&down, &down_bias, (0, 1))?,
        ])
    }

    fn name(&self, part: &str) -> String {
        format!("{}.mlp.experts.{part}", self.layer)
    }

    fn bias(&self, part: &str, experts: usize, outputs: usize) -> Result<StoredMatrix, LoadError> {
        let spec = WeightSpec::matrix(self.name(part), experts, outputs);
        self.loader.checkpoint.take(&spec)
    }

    fn stored(
        &self,
        part: &str,
        shape: StackShape,
        format: StackFormat,
    ) -> Result<StoredStack, LoadError> {
        let StackShape {
            experts,
            outputs,
            inputs,
        } = shape;
        let checkpoint = self.loader.checkpoint;
        if format == StackFormat::Plain {
            let spec = WeightSpec {
                name: self.name(part),
                shape: vec![experts, inputs, outputs],
            };
            return Ok(StoredStack::Plain(checkpoint.take(&spec)?, inputs));
        }
        let blocks = inputs.div_ceil(BLOCK);
        let bytes = |end: &str, shape| {
            checkpoint.take_bytes(&WeightSpec {
                name: self.name(&format!("{part}_{end}")),
                shape,
            })
        };
        Ok(StoredStack::Mxfp4(Mxfp4 {
            rows: outputs,
            cols: inputs,
            blocks: bytes("blocks", vec![experts, outputs, blocks, BLOCK_BYTES])?,
            scales: bytes("scales", vec![experts, outputs, blocks])?,
        }))
    }
}

/// Matrices `[outputs, inputs]` of so many experts.
struct StackShape {
    experts: usize,
    outputs: usize,
    inputs: usize,
}

/// All experts' matrices in one tensor.
enum StoredStack {
    /// `[experts * inputs, outputs]`, and the inputs of one.
    Plain(StoredMatrix, usize),
    Mxfp4(Mxfp4),
}

impl StoredStack {
    /// Every `step`-th output of an expert's matrix from `first` on.
    fn matrix(
        &self,
        expert: usize,
        first: usize,
        step: usize,
    ) -> Result<StoredMatrix, DeviceError> {
        match self {
            StoredStack::Plain(tensor, inputs) => Ok(tensor
                .slice_rows(expert * inputs, *inputs)
                .transpose_columns(first, step)),
            StoredStack::Mxfp4(stack) => stack.matrix(expert, first, step),
        }
    }
}
