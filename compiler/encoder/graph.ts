// An encoder as one ONNX graph, opset 21, operators of the standard only: the encoder, and what the task makes of it.
import { graphNames, type Linear, type Pooling } from '../contract.ts'
import { GraphBuilder } from '../graph/builder.ts'
import type { Graph } from '../onnx/model.ts'
import { attachSlots } from '../passes/attach-slots.ts'
import { attachStack } from '../passes/attach-stack.ts'
import { writeBert } from './bert-graph.ts'
import { type EncoderBuilder, writeActivation, writeLinear, writeNorm } from './graph-parts.ts'
import { writeModernBert } from './modernbert-graph.ts'
import { CLASSIFIER, pooler } from './names.ts'
import type { EncoderCheckpoint } from './open.ts'
import type { EncoderWeight } from './weights.ts'

/** torch.clamp's in sentence-transformers, so that a row of padding alone is not divided by 0. */
const LEAST_COUNT = 1e-9
/** torch.nn.functional.normalize's. */
const LEAST_LENGTH = 1e-12
/** Below every hidden value: of fp32's lowest, so that no infinity comes of a row of padding alone. */
const LOWEST = -3.4028234663852886e38
const FLOAT = 1

/** `bank`: the linears that get slots; `stack`: those that get a side path of fixed adapters. With neither, the plain model. */
export function buildEncoder(
  { config, names, prefix }: Pick<EncoderCheckpoint, 'config' | 'names' | 'prefix'>,
  plan: readonly EncoderWeight[],
  { bank, stack }: { readonly bank: readonly Linear[]; readonly stack: readonly Linear[] },
): Graph {
  const graph = new GraphBuilder('model', plan)
  const builder: EncoderBuilder = { graph, config, names, prefix }
  graph.input(graphNames.inputIds, 'int64', ['batch', 'tokens'])
  graph.input(graphNames.attentionMask, 'int64', ['batch', 'tokens'])
  const { details, task, pooling, architecture } = config
  const hidden = details.family === 'bert' ? writeBert(builder, details) : writeModernBert(builder, details)
  graph.output(graphNames.lastHiddenState, hidden, 'float32', ['batch', 'tokens', architecture.hiddenSize])
  if (task === 'classification') writeClassifier(builder, hidden)
  else if (names.tensors.has(`${pooler(prefix)}.weight`)) {
    const pooled = graph.node('Squeeze', 'pooled', [writePooler(builder, hidden), graph.ints(1)])
    graph.output(graphNames.poolerOutput, pooled, 'float32', ['batch', architecture.hiddenSize])
  }
  if (pooling !== undefined) writeSentence(builder, hidden, pooling)
  const plain = graph.build()
  if (bank.length > 0) return attachSlots(plain, bank)
  return stack.length > 0 ? attachStack(plain, stack) : plain
}

/** [B, 1, hidden]: a row keeps its axis of tokens, over which low-rank paths broadcast. */
function writePooler(builder: EncoderBuilder, hidden: string): string {
  const { graph, prefix } = builder
  return graph.node('Tanh', 'pooler.act', [writeLinear(builder, pooler(prefix), firstToken(builder, hidden))])
}

function firstToken({ graph }: EncoderBuilder, hidden: string): string {
  return graph.node('Gather', 'first', [hidden, graph.ints(0)], { axis: 1 })
}

function writeClassifier(builder: EncoderBuilder, hidden: string): void {
  const { graph, config } = builder
  const { details, labels = [] } = config
  let features: string
  if (details.family === 'bert') features = writePooler(builder, hidden)
  else {
    const mask = maskOf(builder)
    const pooled =
      details.classifierPooling === 'cls'
        ? firstToken(builder, hidden)
        : graph.node('Div', 'pool.mean', [sumOf(builder, hidden, mask), countOf(builder, mask)])
    const dense = writeLinear(builder, 'head.dense', pooled)
    features = writeNorm(
      builder,
      'head.norm',
      writeActivation(builder, 'head.act', details.classifierActivation, dense),
    )
  }
  // A 1 at the end of the row: the bias is the weight's last row, so that an adapter's own head is a change of one matrix.
  const extended = graph.node('Pad', 'classifier.features', [features, graph.ints(0, 0, 0, 0, 0, 1), graph.float(1)])
  const scores = writeLinear(builder, CLASSIFIER, extended)
  const logits = graph.node('Squeeze', 'classifier.logits', [scores, graph.ints(1)])
  graph.output(graphNames.logits, logits, 'float32', ['batch', labels.length])
}

function writeSentence(builder: EncoderBuilder, hidden: string, { modes, normalize }: Pooling): void {
  const { graph, config } = builder
  const mask = maskOf(builder)
  const parts = modes.map((mode, index) => writeMode(builder, `sentence.${index}`, hidden, mask, mode))
  const joined = graph.node('Concat', 'sentence.joined', parts, { axis: -1 })
  const flat = graph.node('Squeeze', 'sentence.flat', [joined, graph.ints(1)])
  const width = modes.length * config.architecture.hiddenSize
  let vector = flat
  if (normalize) {
    const length = graph.node('ReduceL2', 'sentence.length', [flat, graph.ints(-1)], { keepdims: 1 })
    vector = graph.node('Div', 'sentence.unit', [
      flat,
      graph.node('Max', 'sentence.divisor', [length, graph.float(LEAST_LENGTH)]),
    ])
  }
  graph.output(graphNames.sentenceEmbedding, vector, 'float32', ['batch', width])
}

/** [B, 1, hidden] */
function writeMode(
  builder: EncoderBuilder,
  at: string,
  hidden: string,
  mask: string,
  mode: Pooling['modes'][number],
): string {
  const { graph } = builder
  switch (mode) {
    case 'cls': {
      // The first token that is no padding, which need not be the row's first.
      const first = graph.node('ArgMax', `${at}.first`, [graphNames.attentionMask], { axis: 1, keepdims: 1 })
      const index = graph.node('Unsqueeze', `${at}.index`, [first, graph.ints(2)])
      return graph.node('GatherND', at, [hidden, index], { batch_dims: 1 })
    }
    case 'max': {
      const padding = graph.node('Equal', `${at}.padding`, [mask, graph.float(0)])
      const kept = graph.node('Where', `${at}.kept`, [padding, graph.float(LOWEST), hidden])
      return graph.node('ReduceMax', at, [kept, graph.ints(1)], { keepdims: 1 })
    }
    case 'mean':
      return graph.node('Div', at, [sumOf(builder, hidden, mask, at), countOf(builder, mask, at)])
    case 'mean_sqrt_len': {
      const root = graph.node('Sqrt', `${at}.root`, [countOf(builder, mask, at)])
      return graph.node('Div', at, [sumOf(builder, hidden, mask, at), root])
    }
  }
}

/** float32 [B, S, 1] */
function maskOf({ graph }: EncoderBuilder): string {
  const numbers = graph.node('Cast', 'pool.numbers', [graphNames.attentionMask], { to: FLOAT })
  return graph.node('Unsqueeze', 'pool.mask', [numbers, graph.ints(2)])
}

function sumOf({ graph }: EncoderBuilder, hidden: string, mask: string, at = 'pool'): string {
  const kept = graph.node('Mul', `${at}.kept`, [hidden, mask])
  return graph.node('ReduceSum', `${at}.sum`, [kept, graph.ints(1)], { keepdims: 1 })
}

function countOf({ graph }: EncoderBuilder, mask: string, at = 'pool'): string {
  const count = graph.node('ReduceSum', `${at}.count`, [mask, graph.ints(1)], { keepdims: 1 })
  return graph.node('Max', `${at}.count.least`, [count, graph.float(LEAST_COUNT)])
}
