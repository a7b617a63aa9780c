// What the gateway and the backend agree on: the capability that a request carries, the body it may have, the paths.
// The gateway mints a capability per request after it has authorised the caller; the backend serves nothing without one.
import * as z from 'zod'

export const CAPABILITY_ISSUER = 'sidepath-gateway'
export const CAPABILITY_AUDIENCE = 'sidepath-backend'
/** A capability is a JWT, signed with HS256 and the secret that both sides share; nothing else is accepted. */
export const CAPABILITY_ALGORITHM = 'HS256'
/** Longest life of a capability, from `iat` to `exp`: it is used at once or not at all. */
export const CAPABILITY_TTL_S = 60

const Digest = z.string().regex(/^[0-9a-f]{64}$/)

/** Each part is a file to read, and their ranks add up in one slot of the bank. */
export const MAX_MIX_PARTS = 8
/** Beyond any use, and far from the end of fp32: the sum of a mix's largest weights. */
export const MAX_MIX_WEIGHT = 1_000

/** Adapters of one base, each times its weight: Σ wᵢ·Δᵢ, which runs in one slot as if it were one adapter. */
export const Mix = z
  .array(
    z.strictObject({
      digest: Digest,
      weight: z
        .number()
        .min(-MAX_MIX_WEIGHT)
        .max(MAX_MIX_WEIGHT)
        .refine((weight) => weight !== 0, 'a part of weight 0 is no part'),
    }),
  )
  .min(1)
  .max(MAX_MIX_PARTS)
  .refine((parts) => new Set(parts.map(({ digest }) => digest)).size === parts.length, 'digests must differ')
export type Mix = z.infer<typeof Mix>

/** A mix is spelt with the names of its parts: eight of 128 characters, and the weights between them. */
export const MAX_MODEL_CHARS = 1_200

/** Claims beside the registered `iss`, `aud`, `iat`, `exp` and `jti` (a fresh UUID). */
export const CapabilityClaims = z.object({
  /** `infer` may run tokens; `load` may make an adapter resident; `admin` may unload and list. */
  act: z.enum(['infer', 'load', 'admin']),
  /** Tenant id. Rows of different tenants never share cached prefixes. */
  tenant: z.string().min(1).max(128),
  /** Digest of the base that the request is meant for; the backend refuses any other. */
  base: Digest,
  /**
   * Digest of the adapter that this request runs with, or the mix; null is the base itself. One claim for all three: a
   * backend that does not know mixes refuses one, where it would take a claim beside this for a request for the base.
   */
  adapter: z.union([Digest, Mix]).nullable(),
  /** The name that the caller used; answers carry it in `model`, in every chunk. */
  model: z.string().min(1).max(MAX_MODEL_CHARS),
  /** Upper bound on generated tokens; `max_tokens` above it is cut to it. */
  maxTokens: z.int().min(1),
})
export type Capability = z.infer<typeof CapabilityClaims>

/** Every token is compared with every stop string, so they are short. */
export const MAX_STOP_CHARS = 1_000
const StopString = z.string().min(1).max(MAX_STOP_CHARS)

const sampling = {
  max_tokens: z.int().min(1).optional(),
  temperature: z.number().min(0).max(2).optional(),
  top_p: z.number().gt(0).max(1).optional(),
  seed: z.int().optional(),
  stop: z.union([StopString, z.array(StopString).max(4)]).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z
    .strictObject({
      include_usage: z.boolean().optional(),
      /** As in vLLM: every chunk carries the usage so far, so that an aborted stream can be billed. */
      continuous_usage_stats: z.boolean().optional(),
    })
    .nullish(),
}

const MAX_TEXT_CHARS = 1_000_000

/** `POST /v1/completions`. Fields that are not listed are refused by name: nothing is silently ignored. */
export const CompletionRequest = z.strictObject({
  prompt: z.string().max(MAX_TEXT_CHARS),
  ...sampling,
})
export type CompletionRequest = z.infer<typeof CompletionRequest>

export const ChatMessage = z.strictObject({
  role: z.enum(['system', 'user', 'assistant']),
  content: z.string().max(MAX_TEXT_CHARS),
})
export type ChatMessage = z.infer<typeof ChatMessage>

/** `POST /v1/chat/completions`. */
export const ChatCompletionRequest = z.strictObject({
  messages: z.array(ChatMessage).min(1).max(256),
  max_completion_tokens: z.int().min(1).optional(),
  ...sampling,
})
export type ChatCompletionRequest = z.infer<typeof ChatCompletionRequest>

/** `POST /v1/adapters/load`: make an adapter of the backend's store resident, or a mix. The capability (`act: load`) names it. */
export const LoadResponse = z.object({ digest: Digest, slot: z.int(), loadedMs: z.number() })

/** `GET /readyz`: no credential; says only what a router needs. */
export const Readiness = z.object({ ready: z.boolean(), base: Digest, slots: z.int(), free: z.int() })

export const paths = {
  completions: '/v1/completions',
  chat: '/v1/chat/completions',
  load: '/v1/adapters/load',
  unload: '/v1/adapters/unload',
  adapters: '/v1/adapters',
  health: '/healthz',
  ready: '/readyz',
} as const
