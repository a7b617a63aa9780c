// Our own gpu-backend: it believes a signed capability and nothing else, and answers with the public name.
import * as z from 'zod'
import { paths, Readiness } from '../../../gpu-backend/contract.ts'
import { type Driver, NO_LOAD } from '../driver.ts'

const Ready = z.string().transform((text, context) => {
  try {
    return Readiness.parse(JSON.parse(text))
  } catch {
    context.addIssue('is not what a gpu-backend says of itself')
    return z.NEVER
  }
})

export const sidepath: Driver = {
  endpoints: ['chat', 'completions', 'embeddings'],
  adapterName: /^(?!)/,
  needsBaseModel: false,
  mixes: true,
  write() {
    throw new Error('what a gpu-backend runs is in its capability, and never in a name')
  },
  load: null,
  alivePath: paths.ready,
  // Its metrics want a token; readiness says how many slots are free.
  metricsPath: paths.ready,
  readLoad(text) {
    const { data } = Ready.safeParse(text)
    return data === undefined ? NO_LOAD : { ...NO_LOAD, freeSlots: data.free }
  },
}

/** The base that it says it has; undefined where it is not ready for any. */
export function readyBase(text: string): string | undefined {
  const { data } = Ready.safeParse(text)
  return data?.ready ? data.base : undefined
}
