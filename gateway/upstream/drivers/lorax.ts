// LoRAX: on its OpenAI routes `model` is the `adapter_id`, empty for the base; the first request for an adapter loads it.
import { type Driver, keepFields, maxTokensOf, NO_LOAD, PLAIN_NAME, writeOpenAi } from '../driver.ts'
import { sumOf } from '../read-metrics.ts'

/** It reads more fields than these, and does nothing with them. */
const KNOWN = [
  'messages',
  'prompt',
  'temperature',
  'top_p',
  'seed',
  'presence_penalty',
  'frequency_penalty',
  'stream',
  'stop',
  'response_format',
  'tools',
  'tool_choice',
]

export const lorax: Driver = {
  endpoints: ['chat', 'completions'],
  adapterName: PLAIN_NAME,
  needsBaseModel: false,
  mixes: false,
  write(call) {
    const { stop, ...fields } = keepFields(call, KNOWN)
    const stops = stop === undefined ? {} : { stop: [stop].flat() }
    const body = { ...fields, ...stops, max_tokens: maxTokensOf(call), model: call.parts[0]?.upstream ?? '' }
    return { path: writeOpenAi(call, {}).path, body }
  },
  load: null,
  alivePath: '/health',
  metricsPath: '/metrics',
  readLoad: (text) => ({ ...NO_LOAD, requests: sumOf(text, 'lorax_queue_size', 'lorax_batch_current_size') }),
}
