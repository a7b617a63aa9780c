// One authorised request in the words of one backend.
import { hmac } from '@noble/hashes/hmac.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { bytesToHex, utf8ToBytes } from '@noble/hashes/utils.js'
import { type ChatCompletionRequest, type CompletionRequest, promptsOf } from '../../gpu-backend/contract.ts'
import { badRequest } from '../errors.ts'
import type { Backend } from '../policy/policy.ts'
import { readCredential } from './credential.ts'
import type { Call } from './driver.ts'
import { DRIVERS } from './drivers.ts'
import { partsOn } from './pick-backends.ts'
import type { Rewriting } from './rewrite-answer.ts'
import type { Upstream } from './upstream-request.ts'

interface Written {
  readonly authorization: string | undefined
  readonly path: string
  readonly body: string
  /** How the answer becomes ours; undefined: it is ours. */
  readonly rewriting: Rewriting | undefined
}

/** Of one tenant on one backend: two backends cannot tell by it that they serve the same tenant. */
function saltOf(key: string, backend: Backend, tenant: string): string {
  return bytesToHex(hmac(sha256, utf8ToBytes(key), utf8ToBytes(JSON.stringify(['cache-salt', backend.id, tenant]))))
}

/** Our own backend keeps to the limit of the capability; others are told to, since they know of none. */
function limitTokens(fields: Record<string, unknown>, maxTokens: number): Record<string, unknown> {
  const {
    prompt,
    n,
    max_tokens: older,
    max_completion_tokens: newer,
  } = fields as Partial<CompletionRequest & ChatCompletionRequest>
  const choices = (prompt === undefined ? 1 : promptsOf(prompt).length) * (n ?? 1)
  const share = Math.floor(maxTokens / choices)
  if (share === 0) {
    throw badRequest(
      `"n": ${choices} answers are asked for, and ${maxTokens} tokens are allowed in all; ask for fewer.`,
      'invalid_value',
      'n',
    )
  }
  const asked = newer ?? older
  const limit = asked == null ? share : Math.min(asked, share)
  return newer == null
    ? { ...fields, max_tokens: limit }
    : { ...fields, max_tokens: undefined, max_completion_tokens: limit }
}

export function writeRequest(backend: Backend, request: Upstream, now: number): Written {
  const { claims, endpoint, stream } = request
  if (backend.driver === 'sidepath') {
    const authorization = `Bearer ${request.capability}`
    return { authorization, path: request.path, body: request.body, rewriting: undefined }
  }
  const parts = partsOn(backend, claims.adapter)
  if (parts === undefined) throw new Error('a backend was picked for an adapter that is not active on it')
  const credential = readCredential(request.secrets, backend.secret)
  const asked = JSON.parse(request.body) as Record<string, unknown>
  const given = Object.fromEntries(Object.entries(asked).filter(([, value]) => value !== null))
  const driver = DRIVERS[backend.driver]
  const call: Call = {
    endpoint,
    stream,
    fields: endpoint === 'embeddings' ? given : limitTokens(given, claims.maxTokens),
    parts,
    baseModel: backend.baseModel,
    cacheSalt: saltOf(request.saltKey, backend, claims.tenant),
  }
  const { path, body } = driver.write(call)
  return {
    authorization: credential === undefined ? undefined : `Bearer ${credential}`,
    path,
    body: JSON.stringify(body),
    rewriting: {
      endpoint,
      model: claims.model,
      requestId: request.requestId,
      createdS: Math.floor(now / 1000),
      includeUsage: (asked.stream_options as { include_usage?: boolean } | undefined)?.include_usage === true,
      translator: driver.translate?.(call),
    },
  }
}
