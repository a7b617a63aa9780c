// SGLang: the adapter follows the base in `model`, after a colon.
import { type Driver, NO_LOAD, nameOf, writeOpenAi } from '../driver.ts'
import { sumOf } from '../read-metrics.ts'

export const sglang: Driver = {
  endpoints: ['chat', 'completions'],
  // A colon would end the name of the base elsewhere.
  adapterName: /^[A-Za-z0-9][A-Za-z0-9._/@-]{0,255}$/,
  needsBaseModel: true,
  mixes: false,
  write(call) {
    const model = call.parts.length === 0 ? call.baseModel : `${call.baseModel}:${nameOf(call)}`
    return writeOpenAi(call, { model, cache_salt: call.cacheSalt })
  },
  load: (name, source) => ({ path: '/load_lora_adapter', body: { lora_name: name, lora_path: source } }),
  alivePath: '/health',
  metricsPath: '/metrics',
  readLoad: (text) => ({ ...NO_LOAD, requests: sumOf(text, 'sglang:num_running_reqs', 'sglang:num_queue_reqs') }),
}
