// vLLM: the adapter is the `model`, and a name that it does not know is a 404.
import { type Call, type Driver, type Load, nameOf, PLAIN_NAME, writeOpenAi } from '../driver.ts'
import { readSamples, sumOf } from '../read-metrics.ts'

const namesIn = (list: string | undefined): string[] => (list ?? '').split(',').filter((name) => name !== '')

export const vllm: Driver = {
  endpoints: ['chat', 'completions', 'embeddings'],
  adapterName: PLAIN_NAME,
  needsBaseModel: true,
  mixes: false,
  write(call: Call) {
    const { path, body } = writeOpenAi(call, { model: nameOf(call) })
    if (call.endpoint === 'embeddings') return { path, body }
    // With every chunk, so that a stream that is broken off is counted too.
    const counted = call.stream ? { stream_options: { include_usage: true, continuous_usage_stats: true } } : {}
    return { path, body: { ...body, ...counted, cache_salt: call.cacheSalt } }
  },
  load: (name, source) => ({ path: '/v1/load_lora_adapter', body: { lora_name: name, lora_path: source } }),
  alivePath: '/health',
  metricsPath: '/metrics',
  readLoad(text): Load {
    // A series for each set of names that ever was; the value is the time at which it was so.
    const [info] = readSamples(text, 'vllm:lora_requests_info').sort((a, b) => b.value - a.value)
    const resident = new Set(namesIn(info?.labels.get('running_lora_adapters')))
    const waiting = new Set(namesIn(info?.labels.get('waiting_lora_adapters')))
    const most = info === undefined ? Number.NaN : Number(info.labels.get('max_lora') ?? Number.NaN)
    return {
      resident,
      waiting,
      freeSlots: Number.isInteger(most) ? Math.max(0, most - new Set([...resident, ...waiting]).size) : null,
      requests: sumOf(text, 'vllm:num_requests_running', 'vllm:num_requests_waiting'),
    }
  },
}
