// What the routes get beside the request: Node's own request, and what the middleware leaves for them.
import type { HttpBindings } from '@hono/node-server'
import type { Context } from 'hono'

export interface Env {
  Bindings: HttpBindings
  Variables: { requestId: string }
}

/**
 * The bytes of the body. Who stops reading early leaves the connection as it is: a web stream would be cancelled, which
 * closes the connection under the answer.
 */
export function bodyOf(context: Context<Env>): AsyncIterable<Uint8Array> {
  return context.env.incoming.iterator({ destroyOnReturn: false })
}
