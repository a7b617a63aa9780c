// Hands an adapter to the compiler that the server of the page knows, and follows the job.
import type { AdapterFile } from '../trainer/browser/saved-run.ts'
import { Published, paths, Refusal } from './contract.ts'

const POLL_MS = 500

/** Throws an error with a sentence. `onState`: while it is queued and compiled. */
export async function publish(
  base: string,
  name: string,
  files: readonly AdapterFile[],
  onState: (state: Published['state']) => void,
): Promise<Published> {
  const form = new FormData()
  for (const { name: file, bytes } of files) form.append(file, new Blob([bytes]), file)
  let found = await ask(`${paths.publish}?${new URLSearchParams({ base, name })}`, { method: 'POST', body: form })
  while (found.state === 'queued' || found.state === 'running') {
    onState(found.state)
    await new Promise((resolve) => setTimeout(resolve, POLL_MS))
    found = await ask(paths.published(found.job))
  }
  return found
}

async function ask(path: string, request: RequestInit = {}): Promise<Published> {
  const answer = await fetch(path, request).catch(() => {
    throw new Error('the server of this page does not answer; start it again, and publish again')
  })
  const json: unknown = await answer.json().catch(() => undefined)
  if (answer.ok) return Published.parse(json)
  throw new Error(
    Refusal.safeParse(json).data?.error.message ?? `the server answered with HTTP status ${answer.status}`,
  )
}
