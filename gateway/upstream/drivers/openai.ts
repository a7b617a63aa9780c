// Any server with OpenAI's routes: the base and each adapter are a `model` there.
import { type Driver, NO_LOAD, nameOf, PLAIN_NAME, writeOpenAi } from '../driver.ts'

export const openai: Driver = {
  endpoints: ['chat', 'completions', 'embeddings'],
  adapterName: PLAIN_NAME,
  needsBaseModel: true,
  mixes: false,
  write: (call) => writeOpenAi(call, { model: nameOf(call) }),
  load: null,
  alivePath: '/v1/models',
  metricsPath: null,
  readLoad: () => NO_LOAD,
}
