// llama.cpp's server: adapters are given at its start and named by number, each with a scale per request.
import { type Driver, NO_LOAD, writeOpenAi } from '../driver.ts'
import { sumOf } from '../read-metrics.ts'

export const llamaCpp: Driver = {
  // Its embeddings take no adapter of a request, and would be the base's.
  endpoints: ['chat', 'completions'],
  adapterName: /^\d{1,4}$/,
  needsBaseModel: false,
  mixes: true,
  write(call) {
    return writeOpenAi(call, {
      ...(call.baseModel === '' ? {} : { model: call.baseModel }),
      // Said outright, also where it is empty: what is left out has the scales that the server was started with.
      lora: call.parts.map(({ upstream, weight }) => ({ id: Number(upstream), scale: weight })),
      // It has no salt, so the prompts of one tenant would make those of another faster.
      cache_prompt: false,
    })
  },
  load: null,
  alivePath: '/health',
  metricsPath: '/metrics',
  readLoad: (text) => ({
    ...NO_LOAD,
    requests: sumOf(text, 'llamacpp:requests_processing', 'llamacpp:requests_deferred'),
  }),
}
