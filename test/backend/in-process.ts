// An engine in the test's own thread, so that a test can stop between steps and look.
import { afterAll } from 'vitest'
import type { Engine } from '../../gpu-backend/engine/engine.ts'
import { openEngine } from '../../gpu-backend/engine/open.ts'
import {
  defaultEngineConfig,
  type EngineConfig,
  type Failure,
  type GenerateRequest,
  type Piece,
  type RowEvent,
} from '../../gpu-backend/engine/request.ts'

export interface InProcess {
  readonly engine: Engine
  readonly listeners: Map<number, (event: { piece: Piece } | { failure: Failure }) => void>
}

export interface Collected {
  readonly ids: number[]
  readonly text: string
  readonly finish: Piece['finish']
  readonly failure?: Failure
}

/** Routes the engine's events to whoever submitted the request. */
export function dispatcher(): { listeners: InProcess['listeners']; emit: (events: readonly RowEvent[]) => void } {
  const listeners: InProcess['listeners'] = new Map()
  return {
    listeners,
    emit(events) {
      for (const event of events) listeners.get(event.id)?.(event)
    },
  }
}

export async function openInProcess(artifact: string, config: Partial<EngineConfig> = {}): Promise<InProcess> {
  const { listeners, emit } = dispatcher()
  const opened = await openEngine({ ...defaultEngineConfig, ...config, artifact }, emit)
  afterAll(() => opened.close())
  return { engine: opened.engine, listeners }
}

let lastId = 0

/** Greedy and of the base, unless the request says otherwise. */
export function requestOf(given: Partial<GenerateRequest> & Pick<GenerateRequest, 'promptIds'>): GenerateRequest {
  return {
    maxTokens: 16,
    sampling: { temperature: 0, topP: 1, seed: 0 },
    stop: [],
    adapter: null,
    tenant: 'tenant',
    ...given,
  }
}

/** Submits a request; `done` resolves when it has ended, `onPiece` sees every piece. */
export function start(
  { engine, listeners }: InProcess,
  request: Partial<GenerateRequest> & Pick<GenerateRequest, 'promptIds'>,
  onPiece: (count: number, id: number) => void = () => {},
): { id: number; found: number[]; done: Promise<Collected> } {
  const id = ++lastId
  const found: number[] = []
  let text = ''
  const done = new Promise<Collected>((resolve) => {
    listeners.set(id, (event) => {
      if ('failure' in event) return resolve({ ids: found, text, finish: undefined, failure: event.failure })
      found.push(...event.piece.ids)
      text += event.piece.text
      onPiece(found.length, id)
      if (event.piece.finish !== undefined) resolve({ ids: found, text, finish: event.piece.finish })
    })
  })
  engine.submit(id, requestOf(request))
  return { id, found, done }
}

export function collect(
  engine: InProcess,
  request: Partial<GenerateRequest> & Pick<GenerateRequest, 'promptIds'>,
): Promise<Collected> {
  return start(engine, request).done
}
