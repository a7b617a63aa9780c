// A client of the gateway's admin API, as far as the demo needs it.
import { z } from 'zod'

export interface Admin {
  /** Makes the resource what the body says; the same call twice is one. */
  put(path: string, body: object): Promise<void>
  patch(path: string, body: object): Promise<void>
  mintKey(tenant: string, user: string): Promise<string>
  list<T>(path: string, row: z.ZodType<T>): Promise<T[]>
}

export function adminOf(gatewayUrl: string, adminKey: string): Admin {
  const call = async (method: string, path: string, body?: object): Promise<unknown> => {
    const response = await fetch(`${gatewayUrl}/admin/${path}`, {
      method,
      headers: { authorization: `Bearer ${adminKey}`, 'content-type': 'application/json' },
      ...(body && { body: JSON.stringify(body) }),
    })
    if (!response.ok) {
      throw new Error(`${method} /admin/${path} answered ${response.status}: ${await response.text()}`)
    }
    return response.json()
  }
  return {
    async put(path, body) {
      await call('PUT', path, body)
    },
    async patch(path, body) {
      await call('PATCH', path, body)
    },
    mintKey: async (tenant, user) =>
      z.object({ key: z.string() }).parse(await call('POST', `tenants/${tenant}/keys`, { user })).key,
    list: async (path, row) => z.object({ data: z.array(row) }).parse(await call('GET', path)).data,
  }
}

/** Whether the gateway still takes the key on this path. */
export async function accepts(gatewayUrl: string, key: string, path: string): Promise<boolean> {
  const response = await fetch(`${gatewayUrl}${path}`, { headers: { authorization: `Bearer ${key}` } })
  await response.body?.cancel()
  return response.ok
}
