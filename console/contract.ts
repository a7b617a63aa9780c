// What the pages and their server agree on.
import { z } from 'zod'

export const paths = {
  setup: '/setup.json',
  base: (name: string) => `/bases/${encodeURIComponent(name)}/`,
  sample: '/sample.jsonl',
  /** POST: the files of an adapter as a form; `base` and `name` in the query. */
  publish: '/publish',
  published: (job: string) => `/publish/${job}`,
  worker: '/worker.js',
  wasm: '/runtime.wasm',
  script: '/runtime.mjs',
} as const

export const Setup = z.object({
  bases: z.array(z.object({ name: z.string(), bytes: z.number() })),
  /** Name of a file of examples for whoever has none at hand; null where there is none. */
  sample: z.string().nullable(),
  /** Whether there is a compiler to publish to. */
  publishes: z.boolean(),
})
export type Setup = z.infer<typeof Setup>

export const Published = z.object({
  job: z.string(),
  state: z.enum(['queued', 'running', 'done', 'failed', 'cancelled']),
  /** Where the manifest of the artifact is, once there is one. */
  manifest: z.string().nullable(),
  /** Why it failed. */
  problems: z.array(z.string()),
})
export type Published = z.infer<typeof Published>

/** Every answer that is no success. */
export const Refusal = z.object({ error: z.object({ message: z.string() }) })
