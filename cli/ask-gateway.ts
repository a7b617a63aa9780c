// Asks a gateway's admin plane, for the verbs that look at one. The key comes from the environment.
import { z } from 'zod'
import { UserError } from './fail.ts'

/** Null: the gateway says that there is no such thing. */
export async function askGateway<T extends z.ZodType>(
  gateway: string,
  path: string,
  schema: T,
  body?: object,
): Promise<z.output<T> | null> {
  const adminKey = process.env.SIDEPATH_ADMIN_KEY
  if (!adminKey) {
    throw new UserError(
      'SIDEPATH_ADMIN_KEY is not set; it must be an admin key, such as `sidepath gateway --new-admin-key` prints.',
    )
  }
  const url = URL.parse(`/admin${path}`, gateway)
  if (url === null) throw new UserError(`"${gateway}" is no address; give --gateway one such as http://127.0.0.1:8787.`)
  let response: Response
  try {
    response = await fetch(url, {
      headers: { authorization: `Bearer ${adminKey}`, 'content-type': 'application/json' },
      redirect: 'error',
      ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
    })
  } catch {
    throw new UserError(`no gateway answers at ${url.origin}; start one, or give another with --gateway.`)
  }
  const answer: unknown = await response.json().catch(() => null)
  if (response.status === 404) return null
  const parsed = response.ok ? schema.safeParse(answer) : undefined
  if (parsed?.success) return parsed.data
  const said = z.object({ error: z.object({ message: z.string() }) }).safeParse(answer)
  const why = said.success
    ? said.data.error.message
    : `its answer, status ${response.status}, is not of the form that this version knows`
  throw new UserError(`the gateway at ${url.origin} did not answer: ${why}`)
}
