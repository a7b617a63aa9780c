// What the compiler service and its clients agree on: recipes, jobs, events, paths. In words: docs/jobs-api.md.
import * as z from 'zod'

/** SHA-256, lower-case hex. */
export const Digest = z.string().regex(/^[0-9a-f]{64}$/)

/** As in compiler/contract.ts. */
export const AdapterName = z.string().regex(/^[a-z0-9][a-z0-9._-]{0,63}$/)

/** What the compiler reads of a base. A name outside the list is refused, so that none can be a path. */
export const BaseFile = z
  .string()
  .regex(
    /^(config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|chat_template\.jinja|model\.safetensors|model\.safetensors\.index\.json|model-\d{5}-of-\d{5}\.safetensors)$/,
  )

/** What the compiler reads of an adapter: PEFT's names, and those of MLX and diffusers. */
export const AdapterFile = z
  .string()
  .regex(/^(adapter_config\.json|adapter_model\.safetensors|adapters\.safetensors|pytorch_lora_weights\.safetensors)$/)

/** The largest public checkpoints have fewer shards. */
export const MAX_BASE_FILES = 512
/** As many as a routed base is meant to serve. */
export const MAX_ADAPTERS = 1_000
const MAX_ADAPTER_FILES = 4

const files = (name: z.ZodString, max: number) =>
  z.record(name, Digest).refine((entries) => {
    const count = Object.keys(entries).length
    return count >= 1 && count <= max
  }, `name 1 to ${max} files`)

/** `POST /v1/jobs`: what to compile, by content. */
export const Recipe = z.strictObject({
  target: z.enum(['routed', 'stacked', 'merged']),
  base: files(BaseFile, MAX_BASE_FILES),
  adapters: z
    .array(
      z.strictObject({
        name: AdapterName,
        weight: z.number().default(1),
        files: files(AdapterFile, MAX_ADAPTER_FILES),
      }),
    )
    .max(MAX_ADAPTERS)
    .refine((list) => new Set(list.map(({ name }) => name)).size === list.length, 'two adapters have one name'),
})
export type Recipe = z.infer<typeof Recipe>

export const JobState = z.enum(['queued', 'running', 'done', 'failed', 'cancelled'])
export type JobState = z.infer<typeof JobState>

export const Progress = z.strictObject({ stage: z.string(), doneBytes: z.number(), totalBytes: z.number() })
export type Progress = z.infer<typeof Progress>

export const Failure = z.strictObject({
  /** `input_invalid` is final. After any other, asking for the same recipe again runs it again. */
  code: z.enum([
    'input_invalid',
    'quota_exceeded',
    'storage_full',
    'out_of_memory',
    'job_timeout',
    'job_crashed',
    'internal_error',
  ]),
  message: z.string(),
  /** Everything that is wrong with the input; empty for any code but `input_invalid`. */
  problems: z.array(z.strictObject({ code: z.string(), message: z.string() })),
})
export type Failure = z.infer<typeof Failure>

const Time = z.int().min(0)

export const JobSummary = z.strictObject({
  /** SHA-256 of the canonical recipe. */
  id: Digest,
  state: JobState,
  target: Recipe.shape.target,
  /** Milliseconds since 1970; of the latest run, where the job has run more than once. */
  queuedAt: Time,
  startedAt: Time.nullable(),
  endedAt: Time.nullable(),
  /** While it runs. */
  progress: Progress.nullable(),
  /** Id of the artifact; set when, and only when, `state` is `done`. */
  artifact: Digest.nullable(),
  failure: Failure.nullable(),
})
export type JobSummary = z.infer<typeof JobSummary>

export const Job = JobSummary.extend({ recipe: Recipe })
export type Job = z.infer<typeof Job>

export const paths = {
  health: '/healthz',
  blob: (sha256: string) => `/v1/blobs/${sha256}`,
  jobs: '/v1/jobs',
  job: (id: string) => `/v1/jobs/${id}`,
  events: (id: string) => `/v1/jobs/${id}/events`,
  /** `file`: `manifest.json`, or a path that the manifest lists. */
  artifact: (id: string, file: string) => `/v1/artifacts/${id}/${file}`,
} as const
