// A server of Node's, at an address.
import type { Server } from 'node:http'

/** Where it listens, once it does: port 0 is whichever was free. Rejects with what the system says. */
export async function listen(
  server: Server,
  { host, port }: { readonly host: string; readonly port: number },
): Promise<string> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, resolve)
  })
  const address = server.address()
  const bound = typeof address === 'object' && address !== null ? address.port : port
  return `http://${host}:${bound}`
}
