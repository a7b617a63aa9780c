// Both graphs of an artifact, ready to be written.
import type { LlamaConfig } from '../checkpoint/config.ts'
import type { Linear } from '../contract.ts'
import type { Graph } from '../onnx/model.ts'
import { attachSlots } from '../passes/attach-slots.ts'
import { makeEngineForm } from './engine-form.ts'
import { buildLlama } from './llama.ts'
import { makeModelForm } from './model-form.ts'
import type { PlannedWeight } from './weights.ts'

/** `bank`: the linears that get slots; with none the graph is the plain model. */
export function buildGraphs(
  config: LlamaConfig,
  plan: readonly PlannedWeight[],
  bank: readonly Linear[],
): { model: Graph; engine: Graph } {
  const build = (name: string, form: typeof makeModelForm) => {
    const graph = buildLlama(config, plan, name, form)
    return bank.length === 0 ? graph : attachSlots(graph, bank)
  }
  return { model: build('model', makeModelForm), engine: build('engine', makeEngineForm) }
}
