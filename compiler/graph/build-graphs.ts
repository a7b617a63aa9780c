// Both graphs of an artifact, ready to be written.
import type { Decoder } from '../checkpoint/decoder.ts'
import type { Linear } from '../contract.ts'
import type { Graph } from '../onnx/model.ts'
import { attachSlots } from '../passes/attach-slots.ts'
import { attachStack } from '../passes/attach-stack.ts'
import { buildDecoder } from './decoder.ts'
import { makeEngineForm } from './engine-form.ts'

import { makeModelForm } from './model-form.ts'
import type { PlannedWeight } from './weights.ts'

/** `bank`: the linears that get slots; `stack`: those that get a side path of fixed adapters. With neither, the plain model. */
export function buildGraphs(
  config: Decoder,
  plan: readonly PlannedWeight[],
  { bank, stack }: { readonly bank: readonly Linear[]; readonly stack: readonly Linear[] },
): { model: Graph; engine: Graph } {
  const build = (name: string, form: typeof makeModelForm) => {
    const graph = buildDecoder(config, plan, name, form)
    if (bank.length > 0) return attachSlots(graph, bank)
    return stack.length > 0 ? attachStack(graph, stack) : graph
  }
  return { model: build('model', makeModelForm), engine: build('engine', makeEngineForm) }
}
