package redis

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/meshlite-go/meshlite/internal/redisconn"
)

const (
	// A slot is four bits for the kind of a subject and 14 for the subject, so that the
	// many requests do not invalidate the few methods.
	kindBits, slotBits = 4, 14
	// everything is the slot that all values belong to.
	everything = 1 << (kindBits + slotBits)
	// generationTTL is renewed with every value.
	generationTTL = 30 * 24 * time.Hour
)

// digest is that of the generations that a value belongs to.
type digest = [sha256.Size]byte

// slotOf is where the generation of subject is.
func slotOf(subject string) uint32 {
	kind, _, _ := strings.Cut(subject, " ")
	k, s := sha256.Sum256([]byte(kind)), sha256.Sum256([]byte(subject))
	return uint32(k[0])%(1<<kindBits)<<slotBits | binary.BigEndian.Uint32(s[:])%(1<<slotBits)
}

// slotsOf are the slots of subjects, each once.
func slotsOf(subjects []string) []uint32 {
	slots := make([]uint32, 0, len(subjects)+1)
	for _, subject := range subjects {
		slots = append(slots, slotOf(subject))
	}
	slices.Sort(slots)
	return slices.Compact(slots)
}

// generation is the key of a slot.
func (r *Redis) generation(slot uint32) string {
	return r.conn.Prefix + "g:" + strconv.FormatUint(uint64(slot), 10)
}

func (r *Redis) value(key string) string {
	sum := sha256.Sum256([]byte(key))
	return r.conn.Prefix + "v:" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// Load returns the value of key unless one of its subjects has been invalidated since its
// load began. It takes one round trip, and a second one if it is the first to use a
// subject. It fails with [ErrAway] at once while Redis is away.
func (r *Redis) Load(ctx context.Context, key string, subjects []string) (value []byte, left time.Duration, ticket string, err error) {
	r.counters.loads.Add(1)
	if err := r.conn.TurnedAway(); err != nil { // before any work
		return nil, 0, "", err
	}
	at := place{r.value(key), append(slotsOf(subjects), everything)}
	found, err := redisconn.Call(ctx, r.conn, func(ctx context.Context, client rueidis.Client) (found, error) {
		return r.find(ctx, client, at)
	})
	if err != nil {
		return nil, 0, "", err
	}
	if found.value != nil {
		r.counters.hits.Add(1)
	}
	return found.value, found.left, at.ticket(found.digest), nil
}

// Save stores value for ttl, in whole milliseconds. A value larger than
// [WithMaxValueBytes] is an error.
func (r *Redis) Save(ctx context.Context, ticket string, value []byte, ttl time.Duration) error {
	at, digest, err := parseTicket(ticket)
	switch {
	case err != nil:
		return err
	case len(value) > r.maxValue:
		return fmt.Errorf("redis: a value of %d bytes is above the %d that are kept: raise WithMaxValueBytes", len(value), r.maxValue)
	case ttl < time.Millisecond:
		return nil
	}
	_, err = redisconn.Call(ctx, r.conn, func(ctx context.Context, client rueidis.Client) (struct{}, error) {
		b := client.B()
		kept := rueidis.BinaryString(append(digest[:], value...))
		commands := []rueidis.Completed{b.Set().Key(at.key).Value(kept).Px(ttl).Build()}
		for _, slot := range at.slots {
			commands = append(commands, b.Expire().Key(r.generation(slot)).Seconds(int64(generationTTL/time.Second)).Build())
		}
		return struct{}{}, firstError(client.DoMulti(ctx, commands...))
	})
	if err == nil {
		r.counters.saves.Add(1)
	}
	return err
}

// place is the key of a value, and the slots of its generations.
type place struct {
	key   string
	slots []uint32
}

type found struct {
	value  []byte // nil: none that is valid
	left   time.Duration
	digest digest
}

// find reads generations and value in one round trip. A value is valid if its generations
// were current when they were read.
func (r *Redis) find(ctx context.Context, client rueidis.Client, at place) (found, error) {
	b := client.B()
	commands := make([]rueidis.Completed, 0, len(at.slots)+2)
	for _, slot := range at.slots {
		commands = append(commands, b.Get().Key(r.generation(slot)).Build())
	}
	// Another process may have a larger WithMaxValueBytes.
	most := len(digest{}) + r.maxValue
	commands = append(commands, b.Getrange().Key(at.key).Start(0).End(int64(most)).Build(), b.Pttl().Key(at.key).Build())
	answers := client.DoMulti(ctx, commands...)

	generations, missing := make([]string, len(at.slots)), []int(nil)
	for i := range at.slots {
		id, err := answers[i].ToString()
		switch {
		case rueidis.IsRedisNil(err):
			missing = append(missing, i)
		case err != nil:
			return found{}, err
		}
		generations[i] = id
	}
	kept, err := answers[len(at.slots)].AsBytes()
	if err != nil {
		return found{}, err
	}
	left, err := answers[len(at.slots)+1].AsInt64()
	if err != nil {
		return found{}, err
	}
	if len(missing) > 0 {
		if err := r.addGenerations(ctx, client, at, generations, missing); err != nil {
			return found{}, err
		}
	}
	f := found{left: max(0, time.Duration(left)*time.Millisecond), digest: digestOf(generations)}
	if len(kept) >= len(f.digest) && len(kept) <= most && bytes.Equal(kept[:len(f.digest)], f.digest[:]) {
		f.value = kept[len(f.digest):]
	}
	return f, nil
}

// addGenerations gives new ids to the generations that are missing, or reads those that
// other processes have given them in the meantime.
func (r *Redis) addGenerations(ctx context.Context, client rueidis.Client, at place, generations []string, missing []int) error {
	commands := make([]rueidis.Completed, 0, 2*len(missing))
	for _, i := range missing {
		key := r.generation(at.slots[i])
		commands = append(commands,
			client.B().Set().Key(key).Value(rand.Text()).Nx().Ex(generationTTL).Build(),
			client.B().Get().Key(key).Build())
	}
	answers := client.DoMulti(ctx, commands...)
	for n, i := range missing {
		if err := answers[2*n].Error(); err != nil && !rueidis.IsRedisNil(err) {
			return err
		}
		id, err := answers[2*n+1].ToString()
		if err != nil {
			return fmt.Errorf("the generation of a subject was lost as soon as it was made: %w", err)
		}
		generations[i] = id
	}
	return nil
}

func digestOf(generations []string) digest {
	return sha256.Sum256([]byte(strings.Join(generations, "\n")))
}

// ticket is the digest, the slots and the key, one after the other.
func (p place) ticket(s digest) string {
	b := make([]byte, 0, len(s)+1+4*len(p.slots)+len(p.key))
	b = append(b, s[:]...)
	b = binary.AppendUvarint(b, uint64(len(p.slots)))
	for _, slot := range p.slots {
		b = binary.AppendUvarint(b, uint64(slot))
	}
	return string(append(b, p.key...))
}

var errTicket = errors.New("redis: the ticket was not made by Load")

func parseTicket(ticket string) (place, digest, error) {
	var s digest
	b := []byte(ticket)
	if copy(s[:], b) < len(s) {
		return place{}, s, errTicket
	}
	b = b[len(s):]
	count, n := binary.Uvarint(b)
	if n <= 0 || count > uint64(len(b)) {
		return place{}, s, errTicket
	}
	b = b[n:]
	p := place{slots: make([]uint32, count)}
	for i := range p.slots {
		slot, n := binary.Uvarint(b)
		if n <= 0 || slot > everything {
			return place{}, s, errTicket
		}
		p.slots[i], b = uint32(slot), b[n:]
	}
	if p.key = string(b); p.key == "" {
		return place{}, s, errTicket
	}
	return p, s, nil
}

func firstError(answers []rueidis.RedisResult) error {
	for _, a := range answers {
		if err := a.Error(); err != nil && !rueidis.IsRedisNil(err) {
			return err
		}
	}
	return nil
}
