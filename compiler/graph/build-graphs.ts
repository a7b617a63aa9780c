// The graphs of an artifact, ready to be written.
import type { Decoder } from '../checkpoint/decoder.ts'
import type { Linear } from '../contract.ts'
import type { Graph } from '../onnx/model.ts'
import { attachPaths } from '../passes/attach-paths.ts'
import { attachShared, canShare } from '../passes/attach-shared.ts'
import { attachSlots } from '../passes/attach-slots.ts'
import { attachStack } from '../passes/attach-stack.ts'
import { buildDecoder } from './decoder.ts'
import { makeEngineForm } from './engine-form.ts'
import { makeModelForm } from './model-form.ts'
import { sitesOf } from './sites.ts'
import type { PlannedWeight } from './weights.ts'

export interface Graphs {
  readonly model: Graph
  readonly engine: Graph
  /** The engine's form without paths, where `engine` has paths for rows of several adapters. */
  readonly base?: Graph
  /** The engine's form with paths for rows that all use one adapter, where there is such a form. */
  readonly shared?: Graph
}

/** `bank`: the linears that get slots; `stack`: those that get a side path of fixed adapters. With neither, the plain model. */
export function buildGraphs(
  config: Decoder,
  plan: readonly PlannedWeight[],
  { bank, stack }: { readonly bank: readonly Linear[]; readonly stack: readonly Linear[] },
): Graphs {
  const model = buildDecoder(config, plan, 'model', makeModelForm)
  const engine = buildDecoder(config, plan, 'engine', makeEngineForm({ joined: stack.length === 0 }))
  if (bank.length === 0) {
    return stack.length === 0
      ? { model, engine }
      : { model: attachStack(model, stack), engine: attachStack(engine, stack) }
  }
  const sites = sitesOf(config.architecture)
  const grouped = buildDecoder(config, plan, 'engine', makeEngineForm({ sites }))
  const routed = { model: attachSlots(model, bank), engine: attachPaths(grouped, sites), base: engine }
  if (!canShare(engine, sites)) return routed
  const alone = buildDecoder(config, plan, 'engine', makeEngineForm({ shared: sites }))
  return { ...routed, shared: attachShared(alone, sites) }
}
