// The adapters of one compile for an encoder. What PEFT saves of a classifier as a whole (modules_to_save) is the same as a
// change of rank min(in, out) of it:
//
//   W' = W + ΔW:  ΔWᵀ [in + 1, out], the bias its last row  =  ΔWᵀ·I  =  I·ΔWᵀ
//
// So an adapter's own head is one more pair of factors, and slots, stacks and merges need to know nothing of it.

import type { Change } from '../adapter/change.ts'
import { transpose } from '../adapter/low-rank.ts'
import type { Adapter, AdapterModule } from '../adapter/read.ts'
import type { AdapterInput } from '../adapter/read-changes.ts'
import { readChanges } from '../adapter/read-changes.ts'
import { compareCodePoints } from '../canonical-json.ts'
import type { Linear, Manifest } from '../contract.ts'
import { inputError, Problems, quote } from '../errors.ts'
import { type FloatTensorSource, isFloatTensor, readFloats } from '../safetensors/stream.ts'
import { CLASSIFIER } from './names.ts'
import type { EncoderCheckpoint } from './open.ts'
import { stackClassifier } from './weights.ts'

const HEAD_TENSORS = [`${CLASSIFIER}.weight`, `${CLASSIFIER}.bias`]

/** Sorted by name. Throws one `InputError` with the problems of all adapters. */
export async function readEncoderAdapters(
  inputs: readonly AdapterInput[],
  target: Manifest['target'],
  checkpoint: EncoderCheckpoint,
): Promise<Adapter[]> {
  if (target === 'stacked' && inputs.length === 0) {
    throw inputError('adapter-name', 'a stack needs at least one adapter; name one')
  }
  const problems = new Problems()
  const adapters: Adapter[] = []
  const seen = new Set<string>()
  for (const input of inputs) {
    const { name, weight = 1 } = input
    if (seen.has(name)) problems.add('adapter-name', `adapter ${quote(name)} is given twice; give each its own name`)
    seen.add(name)
    if (target === 'routed' && Number.isFinite(weight) && weight !== 0 && weight !== 1) {
      problems.add('adapter-weight', `adapter ${quote(name)}: the weight is ${weight}; weights are for target "merged"`)
    }
    const adapter = await problems.collect(() => readOne(input, checkpoint))
    if (adapter !== undefined) adapters.push(adapter)
  }
  if (target !== 'routed') checkHeads(adapters, problems)
  problems.throwIfAny()
  return adapters.sort((a, b) => compareCodePoints(a.name, b.name))
}

async function readOne(input: AdapterInput, checkpoint: EncoderCheckpoint): Promise<Adapter> {
  const { name, weight = 1 } = input
  const { changes, loraAlpha, useRslora } = await readChanges(input, checkpoint.tensors)
  const problems = new Problems()
  const linears = new Map(checkpoint.names.linears.map((linear) => [`${linear.module}.weight`, linear]))
  const modules: AdapterModule[] = []
  const head: Change[] = []
  for (const change of changes) {
    const linear = linears.get(change.tensor)
    const what = refusal(change, linear)
    if (what !== undefined) {
      const way = 'which an ONNX target cannot take; merge it into the checkpoint first'
      problems.add('adapter-option', `adapter ${quote(name)}: ${quote(change.tensor)} ${what}, ${way}`)
    } else if (HEAD_TENSORS.includes(change.tensor)) head.push(change)
    else if (change.kind === 'low-rank' && linear !== undefined) modules.push(toModule(linear, change))
  }
  problems.throwIfAny()
  const classifier = linears.get(HEAD_TENSORS[0] as string)
  if (classifier !== undefined && head.length > 0) modules.push(await toHead(classifier, head, checkpoint))
  const order = new Map(checkpoint.names.linears.map(({ module }, index) => [module, index]))
  const place = ({ linear }: AdapterModule) => order.get(linear.module) ?? 0
  return { name, weight, loraAlpha, useRslora, modules: modules.sort((a, b) => place(a) - place(b)) }
}

/** What is neither a plain low-rank change of a linear nor the classifier as a whole. */
function refusal(change: Change, linear: Linear | undefined): string | undefined {
  if (change.kind === 'replace') return HEAD_TENSORS.includes(change.tensor) ? undefined : 'is replaced (saved whole)'
  if (change.kind !== 'low-rank')
    return change.kind === 'add' ? 'has a bias of its own (lora_bias)' : 'has rows replaced'
  if (linear === undefined) return 'is changed but is no linear of the graph'
  if (change.magnitude !== undefined) return 'is DoRA (use_dora)'
  return change.transposed ? 'is stored the other way round (fan_in_fan_out)' : undefined
}

function toModule(
  linear: Linear,
  { A, B, r, scaling, sources, ...sizes }: Change & { kind: 'low-rank' },
): AdapterModule {
  const factor = transpose(A, r, sizes.in)
  // The classifier's row of the bias, which a low-rank change of its weight leaves alone.
  const padded = new Float32Array(linear.in * r)
  padded.set(factor)
  return { linear, r, scaling, A: padded, B: transpose(B, linear.out, r), tensors: sources }
}

async function toHead(linear: Linear, head: readonly Change[], checkpoint: EncoderCheckpoint): Promise<AdapterModule> {
  const lowRank = head.find((change) => change.kind === 'low-rank')
  const replaced = new Map(head.flatMap((change) => (change.kind === 'replace' ? [[change.tensor, change.value]] : [])))
  if (lowRank !== undefined && replaced.size === 0) return toModule(linear, lowRank)
  if (lowRank !== undefined) {
    const way = 'merge it into the checkpoint first'
    throw inputError('adapter-option', `the classifier has a low-rank change and a tensor that is saved whole; ${way}`)
  }
  const stackOf = async (pick: (tensor: string) => FloatTensorSource) =>
    stackClassifier(
      await readFloats(pick(HEAD_TENSORS[0] as string)),
      await readFloats(pick(HEAD_TENSORS[1] as string)),
    )
  const inBase = (tensor: string) => checkpoint.tensors.get(tensor) as FloatTensorSource
  const before = await stackOf(inBase)
  const after = await stackOf((tensor) => {
    const value = replaced.get(tensor)
    return value !== undefined && isFloatTensor(value) ? value : inBase(tensor)
  })
  const delta = after.map((value, at) => value - (before[at] as number))
  const r = Math.min(linear.in, linear.out)
  const identity = Float32Array.from({ length: r * r }, (_, at) => (at % (r + 1) === 0 ? 1 : 0))
  const [A, B] = r === linear.out ? [delta, identity] : [identity, delta]
  return { linear, r, scaling: 1, A, B, tensors: head.flatMap(({ sources }) => sources) }
}

/** What takes the place of a head has no sum with what others do to it, and no half: as in a merge of checkpoints. */
function checkHeads(adapters: readonly Adapter[], problems: Problems): void {
  const having = adapters.filter(({ modules }) => modules.some(({ linear }) => linear.module === CLASSIFIER))
  const isWhole = ({ modules }: Adapter) =>
    modules.some(({ linear, tensors }) => linear.module === CLASSIFIER && !tensors.some((name) => /lora_/.test(name)))
  const whole = having.filter(isWhole)
  if (whole.length > 0 && having.length > 1) {
    problems.add(
      'adapter-target',
      `${CLASSIFIER} is replaced by adapter ${quote(whole[0]?.name ?? '')}, so no other adapter can change it too; take one of them`,
    )
  }
  for (const { name, weight } of whole) {
    if (weight === 1) continue
    problems.add(
      'adapter-weight',
      `adapter ${quote(name)} at weight ${weight} replaces ${CLASSIFIER}; that takes weight 1`,
    )
  }
}
