// A meter whose settling is a span: what the request took, how it ended, and that it is not over before it is settled.
import type { Trace } from '../../telemetry/trace.ts'
import type { Meter } from './meter.ts'

export function watchMeter(
  trace: Trace | undefined,
  meter: Meter,
  decided: { readonly tenant: string; readonly model: string },
): Meter {
  if (trace === undefined) return meter
  trace.root.set({ 'sidepath.tenant': decided.tenant, 'sidepath.model': decided.model })
  const done = Promise.withResolvers<void>()
  trace.owe(done.promise)
  let isOver = false
  return {
    receipt: meter.receipt,
    firstByte() {
      trace.root.event('first byte')
      meter.firstByte()
    },
    settle(outcome, tokens, answer) {
      if (isOver) return
      isOver = true
      const span = trace.begin('settle').set({ 'sidepath.outcome': outcome })
      if (tokens !== null) {
        span.set({
          'gen_ai.usage.input_tokens': tokens.promptTokens,
          'gen_ai.usage.output_tokens': tokens.completionTokens,
        })
      }
      meter.settle(outcome, tokens, answer)
      span.end()
      done.resolve()
    },
    written: () => meter.written(),
  }
}
