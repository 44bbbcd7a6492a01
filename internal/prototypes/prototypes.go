// Package prototypes finds the types of messages and extensions that a program reads with a
// contract that it is not linked with.
//
//	protojson.UnmarshalOptions{Resolver: prototypes.Types{Contract: contract.Types}}
package prototypes

import (
	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // what errors carry most
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Types finds types for Any and extensions: those of the contract, and else those that this
// program is linked with, such as the standard error details.
type Types struct{ Contract *dynamicpb.Types }

// FindMessageByName finds a message.
func (t Types) FindMessageByName(name protoreflect.FullName) (protoreflect.MessageType, error) {
	if found, err := t.Contract.FindMessageByName(name); err == nil {
		return found, nil
	}
	return protoregistry.GlobalTypes.FindMessageByName(name)
}

// FindMessageByURL finds the message of an Any.
func (t Types) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	if found, err := t.Contract.FindMessageByURL(url); err == nil {
		return found, nil
	}
	return protoregistry.GlobalTypes.FindMessageByURL(url)
}

// FindExtensionByName finds an extension.
func (t Types) FindExtensionByName(name protoreflect.FullName) (protoreflect.ExtensionType, error) {
	if found, err := t.Contract.FindExtensionByName(name); err == nil {
		return found, nil
	}
	return protoregistry.GlobalTypes.FindExtensionByName(name)
}

// FindExtensionByNumber finds an extension by its number in message.
func (t Types) FindExtensionByNumber(message protoreflect.FullName, number protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	if found, err := t.Contract.FindExtensionByNumber(message, number); err == nil {
		return found, nil
	}
	return protoregistry.GlobalTypes.FindExtensionByNumber(message, number)
}
