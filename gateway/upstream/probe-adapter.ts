// Whether a backend really runs an adapter. Engines have served the base under an adapter's name, without a word: so an
// adapter counts as served where, on one prompt, its greedy answer is not the base's, and both are the same when asked
// again. Asked in turn (base, adapter, base, adapter), so that what changes by itself is not taken for the adapter.
import type { World } from '../context.ts'
import { GatewayError } from '../errors.ts'
import { readBounded } from '../read-body.ts'
import { abandon } from './abandon.ts'
import { readCredential, type Secrets } from './credential.ts'
import type { Call, Outgoing, UpstreamAddress } from './driver.ts'
import { DRIVERS } from './drivers.ts'
import { rewriteWhole } from './rewrite-answer.ts'

/** Short, of several kinds; an adapter for something else is probed with prompts of its own. */
export const PROMPTS: string[] = [
  'The first thing to do is',
  'Question: What is the capital of France?\nAnswer:',
  '{"name": "',
  'def main():\n',
]
/** Enough for two models to part; a probe is at most 8 prompts of four such answers. */
const PROBE_TOKENS = 48
const MAX_ANSWER_BYTES = 1 << 20

export interface Verdict {
  readonly active: boolean
  /** A sentence; null where it is active. */
  readonly reason: string | null
}

interface Probe {
  readonly endpoint: 'chat' | 'completions'
  readonly prompts: readonly string[]
  readonly secrets: Secrets
  readonly signal: AbortSignal
}

const refused = (reason: string): Verdict => ({ active: false, reason })

/** A sentence about what the backend did; its own words stay out. */
class ProbeFailure extends Error {}

async function post(world: World, backend: UpstreamAddress, outgoing: Outgoing, probe: Probe): Promise<Uint8Array> {
  const credential = readCredential(probe.secrets, backend.secret)
  let response: Response
  try {
    response = await world.fetch(backend.url + backend.prefix + outgoing.path, {
      method: 'POST',
      headers: {
        ...(credential === undefined ? {} : { authorization: `Bearer ${credential}` }),
        'content-type': 'application/json',
      },
      body: JSON.stringify(outgoing.body),
      redirect: 'manual',
      signal: AbortSignal.any([probe.signal, AbortSignal.timeout(world.timeouts.wholeAnswerMs)]),
    })
    if (response.status === 200) {
      const bytes = response.body === null ? null : await readBounded(response.body, MAX_ANSWER_BYTES)
      if (bytes !== null) return bytes
    }
  } catch {
    throw new ProbeFailure('the backend did not answer; see that it runs, and probe again')
  }
  abandon(response.body)
  throw new ProbeFailure(`the backend answered with status ${response.status}; see its log for why, and probe again`)
}

export async function probeAdapter(
  world: World,
  backend: UpstreamAddress & { readonly mayLoad: boolean },
  { upstream, source }: { readonly upstream: string; readonly source: string | null },
  probe: Probe,
): Promise<Verdict> {
  const driver = DRIVERS[backend.driver]
  const ask = async (prompt: string, isAdapter: boolean): Promise<string> => {
    const input = probe.endpoint === 'chat' ? { messages: [{ role: 'user', content: prompt }] } : { prompt }
    const call: Call = {
      endpoint: probe.endpoint,
      stream: false,
      fields: { ...input, max_tokens: PROBE_TOKENS, temperature: 0, seed: 1 },
      parts: isAdapter ? [{ upstream, weight: 1 }] : [],
      baseModel: backend.baseModel,
      // A new one each time: an answer must not come out of what the one before left in a cache.
      cacheSalt: crypto.randomUUID(),
    }
    const bytes = await post(world, backend, driver.write(call), probe)
    try {
      const rewriting = { endpoint: probe.endpoint, model: '', requestId: '', createdS: 0, includeUsage: false }
      const answer = rewriteWhole(bytes, { ...rewriting, translator: driver.translate?.(call) })
      const { choices } = JSON.parse(new TextDecoder().decode(answer))
      return JSON.stringify(choices[0].message ?? choices[0].text)
    } catch {
      throw new ProbeFailure(
        'the backend answered in a form that is not that of its kind; see that its driver is right',
      )
    }
  }
  try {
    // One that is loaded already is refused by some engines: whether it runs is then found out all the same.
    let loading: unknown
    if (source !== null && backend.mayLoad && driver.load !== null) {
      await post(world, backend, driver.load(upstream, source), probe).catch((error: unknown) => {
        loading = error
      })
    }
    let isSteady = false
    for (const prompt of probe.prompts) {
      const base = await ask(prompt, false)
      const adapter = await ask(prompt, true).catch((error: unknown) => {
        throw loading ?? error
      })
      const isSame = (await ask(prompt, false)) === base && (await ask(prompt, true)) === adapter
      isSteady ||= isSame
      if (isSame && base !== adapter) return { active: true, reason: null }
    }
    return refused(
      isSteady
        ? 'its answers are those of the base: the backend serves the base under its name, or the prompts are none that it was trained for; see that its modules are applied, or probe with prompts of its own'
        : 'the backend answers the same prompt differently each time, so nothing can be told; see that it is greedy at temperature 0',
    )
  } catch (error) {
    if (error instanceof ProbeFailure) return refused(error.message)
    if (error instanceof GatewayError && error.message === 'no_backend') {
      return refused('its credential is not bound; set the secret that the backend names')
    }
    throw error
  }
}
